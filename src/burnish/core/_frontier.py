"""The frontier: which points no other point beats on every count.

A point is a label and its figures, each turned so that less is better. The frontier keeps them all
and says which are dominated and by whom, because a table that hides the losers cannot be checked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from burnish.errors import InvalidInput


@dataclass(frozen=True)
class Frontier:
    """Points in a space where less is better on every axis: label -> figures."""

    axes: tuple[str, ...]
    points: Mapping[str, tuple[float, ...]]

    def __post_init__(self) -> None:
        """InvalidInput where a point has another number of figures, or NaN for one."""
        for label, figures in self.points.items():
            if len(figures) != len(self.axes):
                raise InvalidInput(
                    f"the point {label!r} has {len(figures)} figures for the axes "
                    f"{', '.join(self.axes)}"
                )
            if any(math.isnan(figure) for figure in figures):
                raise InvalidInput(
                    f"the point {label!r} has NaN for one of {', '.join(self.axes)}: leave out "
                    "what was not measured, or give infinity"
                )

    def dominated_by(self, label: str) -> str | None:
        """A point of the frontier as good on every axis and better on one; None on the frontier."""
        mine = self.points[label]
        better = [
            other
            for other, figures in self.points.items()
            if figures != mine and all(a <= b for a, b in zip(figures, mine, strict=True))
        ]
        # The first in lexicographic order is beaten by none: whatever beat it would come before.
        return min(better, key=lambda other: self.points[other], default=None)

    def labels(self) -> tuple[str, ...]:
        """The labels on the frontier, by the first axis."""
        best = [label for label in self.points if self.dominated_by(label) is None]
        return tuple(sorted(best, key=lambda label: self.points[label]))

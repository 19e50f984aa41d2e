"""A ratio of two times, with its interval, as the files write it down."""

from __future__ import annotations

from dataclasses import dataclass

from burnish.report._node import Node


@dataclass(frozen=True)
class Ratio:
    """Time of this over time of the reference, raced against it: below 1 is faster."""

    value: float | None
    low: float | None
    high: float | None
    reference: str | None
    unreliable: bool


def ratio(node: Node | None) -> Ratio | None:
    """Read a ratio, if one was written down."""
    if node is None:
        return None
    value, low, high = (node.number(key) for key in ("value", "low", "high"))
    return Ratio(value, low, high, node.text("reference"), node.flag("unreliable"))

"""What operators take at any width, learnt from whole networks whose widths were varied.

Operators of one *family* (kind, kernel, stride, image size: everything but their widths) are taken
to cost a + b·out + c·in + d·out·in, with widths rounded up to blocks: a runtime computes channels
by the vector, and a part of one takes as long as all of it. The size of the block is learnt, too:
the one of `BLOCKS` with which the times are told best. Coefficients are not negative.

What the operators take is not what the network takes: passing from one to the next costs time that
no counter shows. So whole times are fitted to the sum, the number of operators, and a rest.

Left out: kernels that change with the width beyond the block; batches and threads other than those
measured.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import nnls

Array = np.ndarray[Any, Any]
BLOCKS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Seen:
    """An operator in a network that was run: its family, widths (at most two), and seconds."""

    family: Hashable
    widths: tuple[int, ...]
    seconds: float


@dataclass(frozen=True)
class Network:
    """A network that was run: its operators that took time, and what the whole took, in seconds."""

    operators: tuple[Seen, ...]
    seconds: float


@dataclass(frozen=True)
class WidthModel:
    """Seconds by family and width; `spread` is the median error of whole times, as a share."""

    block: int
    families: Mapping[Hashable, tuple[float, ...]]
    scale: float
    step: float
    rest: float
    spread: float

    def operator(self, family: Hashable, widths: Sequence[float]) -> float:
        """What an operator adds to the whole; 0 for a family that was never seen to take time."""
        found = self.families.get(family)
        return 0.0 if found is None else self.scale * _told(found, widths, self.block) + self.step

    def whole(self, operators: Sequence[Seen]) -> float:
        """What a network of these operators takes."""
        return self.rest + sum(self.operator(item.family, item.widths) for item in operators)


def fit(networks: Sequence[Network]) -> WidthModel:
    """Learn from some networks; the more their widths differ from each other, the better."""
    by_family: dict[Hashable, list[Seen]] = {}
    for network in networks:
        for item in network.operators:
            by_family.setdefault(item.family, []).append(item)
    best: tuple[float, int, dict[Hashable, tuple[float, ...]]] | None = None
    for block in BLOCKS:
        families, lost = {}, 0.0
        for family, seen in by_family.items():
            families[family], error = _family(seen, block)
            lost += error
        # A larger block has to earn its place: equal errors keep the smaller one.
        if best is None or lost < 0.98 * best[0]:
            best = (lost, block, families)
    assert best is not None
    _, block, families = best
    sums = [
        sum(_told(families[item.family], item.widths, block) for item in network.operators)
        for network in networks
    ]
    scale, step, rest = _wholes(sums, networks)
    model = WidthModel(block, families, scale, step, rest, math.nan)
    errors = [abs(model.whole(n.operators) / n.seconds - 1) for n in networks]
    return replace(model, spread=float(np.median(errors)))


def _told(coefficients: Sequence[float], widths: Sequence[float], block: int) -> float:
    """What an operator of a family takes by its own counter, in seconds."""
    return float(_features(widths, block) @ np.array(coefficients))


def _features(widths: Sequence[float], block: int) -> Array:
    """1, each width in whole blocks, and their product where there are two."""
    rounded = [math.ceil(width / block) * block for width in widths]
    return np.array([1.0, *rounded, *([math.prod(rounded)] if len(rounded) > 1 else [])])


def _family(seen: Sequence[Seen], block: int) -> tuple[tuple[float, ...], float]:
    """Coefficients, and the squared error they leave, in seconds²."""
    rows = np.array([_features(item.widths, block) for item in seen])
    times = np.array([item.seconds for item in seen])
    units = rows.max(axis=0)
    found, left = nnls(rows / units, times)
    return tuple((found / units).tolist()), float(left**2)


def _wholes(sums: Sequence[float], networks: Sequence[Network]) -> tuple[float, float, float]:
    """How a whole time follows from the sum of operators, their number, and a rest."""
    numbers = [float(len(network.operators)) for network in networks]
    times = np.array([network.seconds for network in networks])
    rows = np.array([sums, numbers, np.ones(len(sums))]).T / times[:, None]
    units = rows.max(axis=0)
    found, _ = nnls(rows / units, np.ones(len(sums)))
    scale, step, rest = (found / units).tolist()
    return scale, step, rest

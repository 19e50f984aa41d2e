"""Seconds over one or two widths: which widths to measure, and what stands between them.

Time is no smooth function of width. Vector instructions work on blocks of channels (16 float32 with
AVX-512), and a runtime may take another kernel, or another layout, where the channels do not fill
them. Measured (Zen 4, one thread): onnxruntime takes 1.6 times as long for a 3 × 3 convolution of
multiples of 4 channels as for multiples of 16, and twice as long for others; a depthwise one of
channels that are no multiple of 4 takes 10 times as long. So widths fall into classes: even (whole
blocks), part (whole quarters of a block), odd (the others), and below a block slim (whole quarters)
and thin. Each combination of classes has a grid of its own, and a time is only ever interpolated
between widths of its own classes, linearly in each: the cost of a layer is
a + b·in + c·out + d·in·out but for steps the size of a block.

Within a grid times never fall as a width grows. What was measured otherwise is noise, and the
nearest non-decreasing values (in logarithms, by pooling adjacent violators: Ayer et al., 1955) take
its place. Between classes times do fall: 48 channels are often faster than 47.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize

from burnish.errors import Damaged
from burnish.profile._latency_family import Widths

EVEN, PART, ODD, SLIM, THIN = "even", "part", "odd", "slim", "thin"
NARROWEST = 4  # the narrowest layer is measured down to this part of it
_POINTS = {EVEN: 3, PART: 2, ODD: 2, SLIM: 2, THIN: 2}
_SWEEPS = 100

Classes = tuple[str, ...]


def classes(widths: Widths, block: int) -> Classes:
    """The class of each width."""
    return tuple(_class(width, block) for width in widths)


def _class(width: int, block: int) -> str:
    if width % block == 0:
        return EVEN
    quarters = width % (block // 4) == 0
    if width < block:
        return SLIM if quarters else THIN
    return PART if quarters else ODD


def widths_to_measure(seen: Sequence[Widths], block: int, step: Widths) -> list[Widths]:
    """All grid points of a family whose layers have the widths `seen`.

    From a quarter of the narrowest to the widest; each width a multiple of its `step` (the groups
    of a convolution).
    """
    axes = []
    for index, values in enumerate(zip(*seen, strict=True)):
        low, high = max(1, min(values) // NARROWEST), max(values)
        every = [width for width in range(low, high + 1) if width % step[index] == 0]
        axes.append(every)
    found = []
    for kinds in itertools.product(_POINTS, repeat=len(axes)):
        chosen = [
            _spread([w for w in axis if _class(w, block) == kind], _POINTS[kind])
            for axis, kind in zip(axes, kinds, strict=True)
        ]
        found += list(itertools.product(*chosen))
    return found


def _spread(values: Sequence[int], number: int) -> list[int]:
    """`number` of the values, the ends among them, evenly in ratio."""
    if len(values) <= number:
        return list(values)
    logs = np.log(values)
    wanted = np.linspace(logs[0], logs[-1], number)
    return [values[index] for index in sorted({int(np.abs(logs - w).argmin()) for w in wanted})]


@dataclass(frozen=True)
class Grid:
    """Seconds at every combination of `axes`: [len(axis 0), len(axis 1)]."""

    axes: tuple[tuple[int, ...], ...]
    seconds: np.ndarray[Any, Any]

    @classmethod
    def fit(cls, measured: Mapping[Widths, float]) -> Grid:
        """From seconds at every point of a grid; made monotone."""
        axes = tuple(tuple(sorted(set(values))) for values in zip(*measured, strict=True))
        points = list(itertools.product(*axes))
        assert set(points) == set(measured), "not a grid"
        logs = np.log([measured[point] for point in points])
        shape = [len(axis) for axis in axes]
        return cls(axes, np.exp(_monotone(logs.reshape(shape))))

    def at(self, widths: Widths) -> float:
        """Seconds at `widths`, interpolated linearly in each; those beyond the ends are cut."""
        block = self.seconds
        for axis, width in zip(self.axes, widths, strict=True):
            place = float(np.interp(width, axis, range(len(axis))))
            low = min(int(place), len(axis) - 1)
            high = min(low + 1, len(axis) - 1)
            block = block[low] + (place - low) * (block[high] - block[low])
        return float(block)

    def holds(self, widths: Widths) -> bool:
        """Whether `widths` lie between the ends."""
        return all(
            axis[0] <= width <= axis[-1] for axis, width in zip(self.axes, widths, strict=True)
        )

    def to_json(self) -> dict[str, Any]:
        """A plain dict; `Grid.from_json` is its inverse."""
        return {"axes": [list(axis) for axis in self.axes], "seconds": self.seconds.tolist()}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Grid:
        """Read back what `to_json` wrote. Raises `Damaged` when it is something else."""
        try:
            axes = tuple(tuple(int(width) for width in axis) for axis in record["axes"])
            seconds = np.asarray(record["seconds"], dtype=np.float64)
        except (TypeError, KeyError, ValueError) as error:
            raise Damaged(f"this is no grid of a latency table ({error})") from None
        whole = seconds.shape == tuple(len(axis) for axis in axes) and seconds.size > 0
        ordered = all(list(axis) == sorted(set(axis)) for axis in axes)
        if not (whole and ordered and bool((np.isfinite(seconds) & (seconds > 0)).all())):
            raise Damaged("a grid of a latency table does not fit its axes, or holds no times")
        return cls(axes, seconds)


@dataclass(frozen=True)
class Curve:
    """Seconds over work, for operators that are measured as they are given."""

    work: tuple[int, ...]
    seconds: tuple[float, ...]

    @classmethod
    def fit(cls, measured: Mapping[int, float]) -> Curve:
        """From seconds at each amount of work; made monotone."""
        work = tuple(sorted(measured))
        logs = _monotone(np.log([measured[item] for item in work]))
        return cls(work, tuple(float(value) for value in np.exp(logs)))

    def at(self, work: int) -> float:
        """Seconds: the line between neighbours; in proportion to the work beyond the ends."""
        ends = self.work[0], self.work[-1]
        nearest = min(max(work, ends[0]), ends[1])
        return float(np.interp(nearest, self.work, self.seconds)) * work / nearest

    def holds(self, work: int) -> bool:
        """Whether `work` lies between the ends."""
        return self.work[0] <= work <= self.work[-1]

    def to_json(self) -> dict[str, Any]:
        """A plain dict; `Curve.from_json` is its inverse."""
        return {"work": list(self.work), "seconds": list(self.seconds)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Curve:
        """Read back what `to_json` wrote. Raises `Damaged` when it is something else."""
        try:
            work = tuple(int(item) for item in record["work"])
            seconds = tuple(float(item) for item in record["seconds"])
        except (TypeError, KeyError, ValueError) as error:
            raise Damaged(f"this is no line of a latency table ({error})") from None
        whole = len(work) == len(seconds) > 0 and list(work) == sorted(set(work))
        if not (whole and all(math.isfinite(item) and item > 0 for item in seconds)):
            raise Damaged("a line of a latency table does not fit its work, or holds no times")
        return cls(work, seconds)


def _monotone(logs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The values, non-decreasing along every axis: each axis in turn until nothing moves."""
    values = logs.astype(np.float64)
    for _ in range(_SWEEPS):
        before = values
        for axis in range(values.ndim):
            values = np.apply_along_axis(_pooled, axis, values)
        if np.allclose(values, before, rtol=0.0, atol=1e-9):
            break
    for axis in range(values.ndim):
        values = np.maximum.accumulate(values, axis=axis)
    return values


def _pooled(line: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = optimize.isotonic_regression(line).x
    return found

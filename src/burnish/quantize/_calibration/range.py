"""From a histogram to a scale and a zero point.

*Min-max* takes the extremes. *Moving average* takes those of the single samples, averaged.
*Percentile* leaves out one in 10,000 of the values, half of them at each end that is not zero.
*Squared error* (the default) shrinks the range while the error it adds by clipping is less than
what finer steps save: the expected squared error of rounding and saturating the histogram is
computed for a grid of shrunken ranges, each side by itself, and the least wins (the idea of Shin et
al. 2016 and of TensorFlow-Lite-like "MSE" observers). *Entropy* keeps the distribution's shape
(`entropy`).

Zero is always representable exactly: padding, ReLU and masks produce it, and an error on it would
be an error everywhere. Where a method would leave nothing but zero of a tensor that holds more, the
extremes stand.

Left out: percentiles of other shares (one in 10,000 is what the field settled on for activations).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from burnish.quantize._calibration.entropy import entropy_ends
from burnish.quantize._calibration.observe import Histogram

Method = Literal["squared error", "min-max", "moving average", "percentile", "entropy"]
METHODS: tuple[Method, ...] = (
    "squared error",
    "min-max",
    "moving average",
    "percentile",
    "entropy",
)
LEVELS = 255
TINY = 1e-12
CUT = 1e-4
_STEPS = np.linspace(0.3, 1.0, 36)
_STEPS_OF_FEW_LEVELS = np.linspace(0.05, 1.0, 96)


@dataclass(frozen=True)
class Params:
    """Quantization of a tensor: x is about (q - zero_point) * scale, q in 0..levels."""

    scale: float
    zero_point: int
    levels: int = LEVELS

    @property
    def low(self) -> float:
        """The smallest value that is not saturated."""
        return -self.zero_point * self.scale

    @property
    def high(self) -> float:
        """The largest value that is not saturated."""
        return (self.levels - self.zero_point) * self.scale


def choose_range(hist: Histogram, method: Method, symmetric: bool) -> Params:
    """uint8 scale and zero point for a tensor.

    Args:
        hist: what calibration saw.
        method: one of `METHODS`.
        symmetric: zero point 128 for a tensor with both signs, as some runtimes' int8 kernels want.
    """
    return choose_grid(hist, method, symmetric and hist.low < 0, LEVELS)


def choose_grid(hist: Histogram, method: Method, symmetric: bool, levels: int) -> Params:
    """Scale and zero point for a grid of `levels` steps, symmetric about its middle if asked."""
    low, high = min(hist.low, 0.0), max(hist.high, 0.0)
    if high - low < TINY:
        return Params(1.0 / levels, (levels + 1) // 2 if symmetric else 0, levels)
    if symmetric:
        return _symmetric(hist, method, max(-low, high), levels)
    ends = _ends(hist, method, low, high, levels)
    if max(ends[1], 0.0) - min(ends[0], 0.0) < TINY:
        ends = low, high
    return params(*ends, levels)


def params(low: float, high: float, levels: int = LEVELS) -> Params:
    """The grid that covers [low, high], widened so that zero lies on it."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / levels, TINY)
    zero_point = int(np.clip(np.round(-low / scale), 0, levels))
    return Params(float(np.float32(scale)), zero_point, levels)


def _ends(
    hist: Histogram, method: Method, low: float, high: float, levels: int
) -> tuple[float, float]:
    if method == "min-max":
        return low, high
    if method == "moving average":
        return hist.average.low, hist.average.high
    if method == "percentile":
        return _percentile(hist)
    if method == "entropy":
        return entropy_ends(hist, levels, symmetric=False)
    weight, value = _occupied(hist)
    best = _shrink(weight, value, low, high, levels, side="both")
    if low < 0 < high:
        best = _shrink(weight, value, best[0], high, levels, side="high")
        best = _shrink(weight, value, low, best[1], levels, side="low")
    return best


def _symmetric(hist: Histogram, method: Method, largest: float, levels: int) -> Params:
    half = levels // 2
    if method == "squared error":
        weight, value = _occupied(hist)
        scales = _steps(levels) * largest / half
        zeros = np.full_like(scales, half + 1.0)
        least = _last_least(_errors(weight, value, scales, zeros, levels))
        return Params(float(np.float32(scales[least])), half + 1, levels)
    if method == "percentile":
        low, high = _percentile(_folded(hist))
    elif method == "entropy":
        low, high = entropy_ends(hist, 2 * half, symmetric=True)
    else:
        low, high = _ends(hist, method, -largest, largest, levels)
    reach = min(max(-low, high), largest)
    reach = reach if reach >= TINY else largest
    return Params(float(np.float32(reach / half)), half + 1, levels)


def _percentile(hist: Histogram) -> tuple[float, float]:
    """The outer edges of the bins that hold the two quantiles, `CUT` in all outside of them."""
    cumulated = np.cumsum(hist.counts)
    # Zero is in every range: values of one sign are cut at their far end only.
    under = 0.0 if hist.low >= 0 else CUT if hist.high <= 0 else CUT / 2
    below = int(np.searchsorted(cumulated, under * cumulated[-1], side="left"))
    above = int(np.searchsorted(cumulated, (1 - (CUT - under)) * cumulated[-1], side="left"))
    edge = hist.centres() + hist.width / 2
    low = max(float(edge[below]) - hist.width, hist.low)
    high = min(float(edge[above]), hist.high)
    # Where all but a few values are zero, those few are what the tensor holds.
    return (hist.low, hist.high) if max(-low, high) <= hist.width else (low, high)


def _folded(hist: Histogram) -> Histogram:
    """The histogram of magnitudes: bins are aligned at zero, so both sides fall on one another."""
    half = len(hist.counts) // 2
    counts = np.zeros_like(hist.counts)
    counts[half:] = hist.counts[half:] + hist.counts[:half][::-1]
    reach = max(-hist.low, hist.high)
    return Histogram(hist.exponent, counts, 0.0, reach, hist.average)


def _occupied(hist: Histogram) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    used = np.flatnonzero(hist.counts)
    value = np.clip(hist.centres()[used], hist.low, hist.high)
    return hist.counts[used].astype(np.float64), value


def _shrink(
    weight: NDArray[np.float64],
    value: NDArray[np.float64],
    low: float,
    high: float,
    levels: int,
    side: str,
) -> tuple[float, float]:
    steps = _steps(levels)
    lows = low * steps if side in ("low", "both") else np.full_like(steps, low)
    highs = high * steps if side in ("high", "both") else np.full_like(steps, high)
    scales = np.maximum((highs - lows) / levels, TINY)
    errors = _errors(weight, value, scales, np.round(-lows / scales), levels)
    best = _last_least(errors)
    return float(lows[best]), float(highs[best])


def _steps(levels: int) -> NDArray[np.float64]:
    return _STEPS if levels >= LEVELS else _STEPS_OF_FEW_LEVELS


def _errors(
    weight: NDArray[np.float64],
    value: NDArray[np.float64],
    scales: NDArray[np.float64],
    zeros: NDArray[np.float64],
    levels: int,
) -> NDArray[np.float64]:
    grid = np.round(value[None] / scales[:, None]) + zeros[:, None]
    back = (np.clip(grid, 0, levels) - zeros[:, None]) * scales[:, None]
    return np.asarray((weight[None] * (back - value[None]) ** 2).sum(1))


def _last_least(errors: NDArray[np.float64]) -> int:
    """The widest of the ranges whose error is least: on a tie, clip nothing."""
    return int(len(errors) - 1 - np.argmin(errors[::-1]))

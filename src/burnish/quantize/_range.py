"""From a histogram to a scale and a zero point.

*Min-max* takes the extremes. *Squared error* (the default) shrinks the range while the error it
adds by clipping is less than what finer steps save: the expected squared error of rounding and
saturating the histogram is computed for a grid of shrunken ranges, each side by itself, and the
least wins (the idea of Shin et al. 2016 and of TensorFlow-Lite-like "MSE" observers).

Zero is always representable exactly: padding, ReLU and masks produce it, and an error on it would
be an error everywhere.

Left out: percentile and entropy ranges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from burnish.quantize._observe import Histogram

Method = Literal["squared error", "min-max"]
METHODS = ("squared error", "min-max")
LEVELS = 255
TINY = 1e-12
_STEPS = np.linspace(0.3, 1.0, 36)


@dataclass(frozen=True)
class Params:
    """uint8 quantization of a tensor: x is about (q - zero_point) * scale, q in 0..255."""

    scale: float
    zero_point: int

    @property
    def low(self) -> float:
        """The smallest value that is not saturated."""
        return -self.zero_point * self.scale

    @property
    def high(self) -> float:
        """The largest value that is not saturated."""
        return (LEVELS - self.zero_point) * self.scale


def choose_range(hist: Histogram, method: Method, symmetric: bool) -> Params:
    """Scale and zero point for a tensor.

    Args:
        hist: what calibration saw.
        method: "squared error" or "min-max".
        symmetric: zero point 128 for a tensor with both signs, as some runtimes' int8 kernels want.
    """
    low, high = min(hist.low, 0.0), max(hist.high, 0.0)
    if high - low < TINY:
        return Params(1.0 / LEVELS, 0)
    if symmetric and low < 0:
        return _symmetric(hist, method, max(-low, high))
    if method == "min-max":
        return params(low, high)
    weight, value = _occupied(hist)
    best = _shrink(weight, value, low, high, side="both")
    if low < 0 < high:
        best = _shrink(weight, value, best[0], high, side="high")
        best = _shrink(weight, value, low, best[1], side="low")
    return params(*best)


def params(low: float, high: float) -> Params:
    """The uint8 grid that covers [low, high], widened so that zero lies on it."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / LEVELS, TINY)
    zero_point = int(np.clip(np.round(-low / scale), 0, LEVELS))
    return Params(float(np.float32(scale)), zero_point)


def _symmetric(hist: Histogram, method: Method, largest: float) -> Params:
    if method == "min-max":
        return Params(float(np.float32(largest / 127)), 128)
    weight, value = _occupied(hist)
    scales = _STEPS * largest / 127
    errors = _errors(weight, value, scales, np.full_like(scales, 128.0))
    return Params(float(np.float32(scales[_last_least(errors)])), 128)


def _occupied(hist: Histogram) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    used = np.flatnonzero(hist.counts)
    value = np.clip(hist.centres()[used], hist.low, hist.high)
    return hist.counts[used].astype(np.float64), value


def _shrink(
    weight: NDArray[np.float64], value: NDArray[np.float64], low: float, high: float, side: str
) -> tuple[float, float]:
    lows = low * _STEPS if side in ("low", "both") else np.full_like(_STEPS, low)
    highs = high * _STEPS if side in ("high", "both") else np.full_like(_STEPS, high)
    scales = np.maximum((highs - lows) / LEVELS, TINY)
    errors = _errors(weight, value, scales, np.round(-lows / scales))
    best = _last_least(errors)
    return float(lows[best]), float(highs[best])


def _errors(
    weight: NDArray[np.float64],
    value: NDArray[np.float64],
    scales: NDArray[np.float64],
    zeros: NDArray[np.float64],
) -> NDArray[np.float64]:
    grid = np.round(value[None] / scales[:, None]) + zeros[:, None]
    back = (np.clip(grid, 0, LEVELS) - zeros[:, None]) * scales[:, None]
    return np.asarray((weight[None] * (back - value[None]) ** 2).sum(1))


def _last_least(errors: NDArray[np.float64]) -> int:
    """The widest of the ranges whose error is least: on a tie, clip nothing."""
    return int(len(errors) - 1 - np.argmin(errors[::-1]))

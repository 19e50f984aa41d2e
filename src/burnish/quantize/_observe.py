"""What calibration remembers of a tensor: a histogram, per-channel means and extremes, a sample.

Memory is bounded and independent of the amount of data; two sketches of two halves of the data
merge into the sketch of the whole.

*Histogram*: equal bins over [-2^e, 2^e). When a value falls outside, e grows and neighbouring bins
are added in pairs; because widths are powers of two and aligned at zero, the result is the same in
whatever order the data came. Large tensors enter the bins by a seeded sample of their elements
(`PER_SAMPLE` a sample of the batch); the extremes are always exact.

*Thinned sample*: pairs (channel, value) for tensors whose channels may still be rescaled after
calibration (depthwise equalization); when full, every second pair is dropped and the rate halved.

Left out: percentiles and entropy (they read the same histogram, and come with their methods).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

NUM_BINS = 8192
PER_SAMPLE = 16384
THINNED = 1 << 16


@dataclass(frozen=True)
class Histogram:
    """Counts over [-2^exponent, 2^exponent) in `NUM_BINS` equal bins; exact `low` and `high`."""

    exponent: int
    counts: NDArray[np.int64]
    low: float
    high: float

    @property
    def width(self) -> float:
        """The width of a bin."""
        return math.ldexp(1.0, self.exponent + 1) / NUM_BINS

    def centres(self) -> NDArray[np.float64]:
        """The middle of each bin."""
        return np.asarray((np.arange(NUM_BINS) - NUM_BINS / 2 + 0.5) * self.width)

    def widened(self, exponent: int) -> Histogram:
        """The same data in wider bins."""
        counts = self.counts
        half = NUM_BINS // 2
        for _ in range(exponent - self.exponent):
            pairs = counts.reshape(-1, 2).sum(1)
            counts = np.zeros_like(self.counts)
            counts[half // 2 : half // 2 + half] = pairs
        return replace(self, exponent=exponent, counts=counts)

    def merged(self, other: Histogram) -> Histogram:
        """The histogram of both data."""
        exponent = max(self.exponent, other.exponent)
        mine, theirs = self.widened(exponent), other.widened(exponent)
        return Histogram(
            exponent,
            mine.counts + theirs.counts,
            min(self.low, other.low),
            max(self.high, other.high),
        )


def histogram(x: torch.Tensor, samples: int = 1, floor: int = -40) -> Histogram:
    """The histogram of a float tensor that holds `samples` samples of a batch.

    `floor` is the least exponent; bins finer than 2^-40 of anything are noise.
    """
    low, high = (float(v) for v in torch.aminmax(_dense(x)))
    values = sampled(x, samples * PER_SAMPLE)
    largest = max(abs(low), abs(high))
    exponent = max(floor, math.frexp(largest)[1]) if largest > 0 else floor
    if math.ldexp(1.0, exponent) <= largest:
        exponent += 1
    return Histogram(exponent, _count(values, exponent), low, high)


def _count(values: torch.Tensor, exponent: int) -> NDArray[np.int64]:
    half = NUM_BINS // 2
    index = (values * (half / math.ldexp(1.0, exponent))).floor_().to(torch.int32) + half
    counts = torch.bincount(index.clamp_(0, NUM_BINS - 1), minlength=NUM_BINS)
    return np.asarray(counts.numpy(), dtype=np.int64)


def sampled(x: torch.Tensor, limit: int) -> torch.Tensor:
    """At most `limit` elements of a tensor, by a fixed seeded choice of positions in memory."""
    flat = _dense(x)
    if flat.numel() <= limit:
        return flat
    return flat[_positions(flat.numel(), limit)]


@functools.lru_cache(maxsize=64)
def _positions(size: int, limit: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(size)
    # One position in each of `limit` equal stretches: spread like a stride, without its resonance
    # with the tensor's own periods (a stride that divides the row length sees one column only).
    step = size / limit
    jitter = torch.rand(limit, generator=generator, dtype=torch.float64)
    return ((torch.arange(limit) + jitter) * step).long().clamp_(max=size - 1)


def _dense(x: torch.Tensor) -> torch.Tensor:
    """All elements as a vector, in memory order, without a copy where the tensor is dense."""
    return x.detach().permute(_memory_order(x)).reshape(-1)


def _memory_order(x: torch.Tensor) -> list[int]:
    """The axes from the outermost in memory to the innermost."""
    strides = x.stride()
    return sorted(range(x.dim()), key=lambda axis: (-strides[axis], axis))


@dataclass(frozen=True)
class Channels:
    """Per channel of a tensor: sum, count and extremes."""

    total: torch.Tensor
    count: int
    low: torch.Tensor
    high: torch.Tensor

    @property
    def mean(self) -> torch.Tensor:
        """The mean of each channel, float64."""
        return self.total / max(self.count, 1)

    def merged(self, other: Channels) -> Channels:
        """The statistics of both data."""
        return Channels(
            self.total + other.total,
            self.count + other.count,
            torch.minimum(self.low, other.low),
            torch.maximum(self.high, other.high),
        )


def channels(x: torch.Tensor, axis: int, extremes: bool) -> Channels:
    """Statistics of each channel along `axis`; extremes only where asked (they cost a pass)."""
    size = x.shape[axis]
    others = [a for a in range(x.dim()) if a != axis % x.dim()]
    total = x.sum(others) if others else x
    if extremes:
        low, high = (x.amin(others), x.amax(others)) if others else (x, x)
    else:
        low = high = torch.zeros(size)
    return Channels(total.double(), x.numel() // max(size, 1), low, high)


@dataclass(frozen=True)
class Thinned:
    """A bounded sample of (channel, value) pairs, `1 / 2**halvings` of what was offered."""

    channel: torch.Tensor
    value: torch.Tensor
    halvings: int

    def merged(self, other: Thinned) -> Thinned:
        """A sample of both data, thinned until it fits."""
        halvings = max(self.halvings, other.halvings)
        mine, theirs = self._thinned(halvings), other._thinned(halvings)
        both = Thinned(
            torch.cat([mine.channel, theirs.channel]),
            torch.cat([mine.value, theirs.value]),
            halvings,
        )
        while both.value.numel() > THINNED:
            both = both._thinned(both.halvings + 1)
        return both

    def _thinned(self, halvings: int) -> Thinned:
        step = 1 << (halvings - self.halvings)
        return Thinned(self.channel[::step], self.value[::step], halvings)


def thinned(x: torch.Tensor, axis: int, samples: int) -> Thinned:
    """A seeded sample of a tensor's elements with the channel each belongs to."""
    limit = samples * PER_SAMPLE
    size = x.numel()
    positions = torch.arange(size) if size <= limit else _positions(size, limit)
    order = _memory_order(x)
    inner = math.prod(x.shape[a] for a in order[order.index(axis % x.dim()) + 1 :])
    channel = (positions // inner) % x.shape[axis]
    return Thinned(channel.to(torch.int32), _dense(x)[positions], 0)

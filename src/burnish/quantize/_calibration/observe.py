"""What calibration remembers of a tensor: a histogram, per-channel means and extremes, a sample.

Memory is bounded and independent of the amount of data; two sketches of two halves of the data
merge into the sketch of the whole, and how the data were cut into batches leaves no trace.

*Histogram*: equal bins over [-2^e, 2^e). When a value falls outside, e grows and neighbouring bins
are added in pairs; because widths are powers of two and aligned at zero, the result is the same in
whatever order the data came. Large tensors enter the bins by a seeded choice of positions in each
sample (`PER_SAMPLE`), the same for every sample; the extremes are always exact. With the histogram
goes the moving average of the extremes of each sample (`average`).

*Thinned sample*: pairs (channel, value) for tensors whose channels may still be rescaled after
calibration (depthwise equalization); when full, every second pair is dropped and the rate halved.

Left out: sketches with relative error (t-digest, DDSketch): their bins are wide where the values
are, and a range is chosen by the error at the values.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from burnish.quantize._calibration.average import Average, averages
from burnish.quantize._calibration.pages import kept

NUM_BINS = 8192
PER_SAMPLE = 16384
THINNED = 1 << 16
IN_CACHE = 1 << 17  # elements
FLOOR = -40  # bins finer than 2^-40 of anything are noise


@dataclass(frozen=True)
class Histogram:
    """Counts over [-2^exponent, 2^exponent) in equal bins; exact `low` and `high`."""

    exponent: int
    counts: NDArray[np.int64]
    low: float
    high: float
    average: Average

    @property
    def width(self) -> float:
        """The width of a bin."""
        return math.ldexp(1.0, self.exponent + 1) / len(self.counts)

    def centres(self) -> NDArray[np.float64]:
        """The middle of each bin."""
        num = len(self.counts)
        return np.asarray((np.arange(num) - num / 2 + 0.5) * self.width)

    def widened(self, exponent: int) -> Histogram:
        """The same data in wider bins."""
        counts = self.counts
        half = len(counts) // 2
        for _ in range(exponent - self.exponent):
            pairs = counts.reshape(-1, 2).sum(1)
            counts = np.zeros_like(self.counts)
            counts[half // 2 : half // 2 + half] = pairs
        return replace(self, exponent=exponent, counts=counts)

    def merged(self, other: Histogram) -> Histogram:
        """The histogram of both data, `other` the later."""
        return self._added(other, self.average.merged(other.average))

    def united(self, other: Histogram) -> Histogram:
        """The histogram of two values of the same samples that share a scale."""
        return self._added(other, self.average.united(other.average))

    def _added(self, other: Histogram, average: Average) -> Histogram:
        exponent = max(self.exponent, other.exponent)
        mine, theirs = self.widened(exponent), other.widened(exponent)
        return Histogram(
            exponent,
            kept(torch.from_numpy(mine.counts + theirs.counts)).numpy(),
            min(self.low, other.low),
            max(self.high, other.high),
            average,
        )

    def between(self, low: float, high: float) -> Histogram:
        """With extremes known from elsewhere, which stand in for their moving average, too."""
        return replace(self, low=low, high=high, average=Average.of(low, high))


def histogram(
    x: torch.Tensor, samples: int = 1, floor: int = FLOOR, axis: int | None = None
) -> Histogram:
    """The histogram of a float tensor that holds `samples` samples of a batch.

    `floor` is the least exponent. `axis` is the batch axis, of size `samples` or a multiple of it;
    without one the tensor is looked at as a whole.
    """
    if axis is None:
        rows, limit = _dense(x).reshape(1, 1, -1), samples * PER_SAMPLE
    else:
        rows, limit = _rows(x, samples, axis).unsqueeze(1), PER_SAMPLE
    return _sketches(rows, limit, floor, NUM_BINS)[0]


def histograms(
    x: torch.Tensor, axis: int | None, batch_axis: int | None, num_bins: int
) -> tuple[Histogram, ...]:
    """The histogram of each channel along `axis`; of the whole tensor where that is None."""
    batched = x.unsqueeze(0) if batch_axis is None else x.movedim(batch_axis, 0)
    if axis is None:
        return _sketches(batched.reshape(len(batched), 1, -1), PER_SAMPLE, FLOOR, num_bins)
    if batch_axis is None:
        axis = axis % x.dim() + 1
    else:
        axis, first = axis % x.dim(), batch_axis % x.dim()
        axis += int(axis < first)
    rows = batched.movedim(axis, 1)
    rows = rows.reshape(*rows.shape[:2], -1)
    # At least 256 elements of a channel, however many channels there are.
    return _sketches(rows, max(PER_SAMPLE // rows.shape[1], 256), FLOOR, num_bins)


def _sketches(rows: torch.Tensor, limit: int, floor: int, num_bins: int) -> tuple[Histogram, ...]:
    """The histogram of each channel of [samples, channels, elements]."""
    size = rows.shape[2]
    lows, highs = _extremes(rows)
    low, high = lows.min(0), highs.max(0)
    exponents = np.maximum(np.frexp(np.maximum(-low, high))[1], floor)
    exponents[np.maximum(-low, high) <= 0] = floor
    # Several times as fast as rows[:, :, positions].
    values = (rows if size <= limit else rows.index_select(2, _positions(size, limit))).float()
    counts = _count(values, exponents, num_bins)
    means = averages(lows, highs)
    return tuple(
        Histogram(int(exponents[c]), counts[c], float(low[c]), float(high[c]), means[c])
        for c in range(rows.shape[1])
    )


def _extremes(rows: torch.Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The least and the greatest of each [sample, channel]."""
    if rows.shape[1] == 1 and rows.shape[2] > IN_CACHE:
        # One pass over memory instead of two, for which only the reduction of all elements serves.
        ends = torch.stack([torch.stack(torch.aminmax(row)) for row in rows])
        return ends[:, :1].double().numpy(), ends[:, 1:].double().numpy()
    return rows.amin(2).double().numpy(), rows.amax(2).double().numpy()


def _count(values: torch.Tensor, exponents: NDArray[np.int32], num_bins: int) -> NDArray[np.int64]:
    half, channels = num_bins // 2, len(exponents)
    if channels == 1:
        # In one piece, and with a plain number: the common case, and what its time goes to.
        index = (values.reshape(-1) * (half / math.ldexp(1.0, int(exponents[0])))).floor_()
    else:
        factor = torch.from_numpy(np.ldexp(float(half), -exponents)).float()
        index = (values * factor[:, None]).floor_()
    bins = (index.to(torch.int32) + half).clamp_(0, num_bins - 1)
    if channels > 1:
        bins += torch.arange(channels, dtype=torch.int32)[:, None] * num_bins
    counts = torch.bincount(bins.reshape(-1), minlength=channels * num_bins)
    return np.asarray(counts.numpy(), dtype=np.int64).reshape(channels, num_bins)


def _rows(x: torch.Tensor, samples: int, axis: int) -> torch.Tensor:
    """[samples, elements], the elements in memory order where the batch is outermost there."""
    if _memory_order(x)[0] == axis % x.dim():
        return _dense(x).reshape(samples, -1)
    return x.detach().movedim(axis, 0).reshape(samples, -1)


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
        return Thinned(kept(both.channel), kept(both.value), both.halvings)

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
    return Thinned(channel.to(torch.int32), _dense(x).index_select(0, positions), 0)

"""Observers: values that watch a stream of tensors and say what scale it wants.

An observer is a frozen value: `observe` gives another one that has seen more, `merged` one that has
seen what both have. Its memory does not grow with what it sees: a histogram of 8,192 bins, or of
2,048 for each channel, and for the methods that ask for extremes alone, next to nothing. Cutting
the data into other batches, or into halves that are merged, gives the same observer (a moving
average also depends on the order, and takes merging for appending).

Large tensors enter the histogram by 16,384 positions of each sample, spread over it and the same
for all (per channel by their share of them, at least 256); extremes are exact.

Left out: blocks (a stream has no fixed ones) and float formats (`choose_scale` covers what they
hold; their steps are relative, so there is little to gain by clipping).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from burnish.errors import InvalidInput
from burnish.quantize._calibration.observe import NUM_BINS, Histogram, histograms
from burnish.quantize._calibration.range import METHODS, Method, choose_grid
from burnish.quantize._tensors.spec import QSpec

BINS_PER_CHANNEL = 2048
BINS_OF_EXTREMES = 4
_EXTREMES: tuple[Method, ...] = ("min-max", "moving average")
_UINT8 = QSpec("uint8", symmetric=False)


@dataclass(frozen=True)
class Observer:
    """What was seen of a stream of tensors, and how to choose a scale from it.

    Args:
        method: "squared error", "min-max", "moving average", "percentile" or "entropy".
        spec: an integer format, per tensor or per channel.
        batch_axis: the axis of the samples in what is observed; None where a tensor is one sample.
            The moving average is over samples, and large samples are thinned one by one.
        sketches: what was seen: one histogram, or one for each channel.

    Raises:
        InvalidInput: an unknown method, blocks, a float format, a format of more than 8 bits with a
            method that weighs rounding against clipping, channels along the batch axis.
    """

    method: Method = "squared error"
    spec: QSpec = _UINT8
    batch_axis: int | None = 0
    sketches: tuple[Histogram, ...] = ()

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InvalidInput(
                f"Observer(method={self.method!r}): one of {', '.join(map(repr, METHODS))}"
            )
        form = self.spec.format
        if self.spec.granularity == "block":
            raise InvalidInput("Observer: a stream of tensors has no blocks; use choose_scale")
        if not form.is_integer:
            raise InvalidInput(f"Observer: {form.name} is a float format; use choose_scale")
        if form.bits > 8 and self.method in ("squared error", "entropy"):
            raise InvalidInput(
                f"Observer({self.method!r}): the steps of {form.name} are finer than the "
                'histogram\'s bins, and rounding is no concern there; use "min-max"'
            )

    def observe(self, x: torch.Tensor) -> Observer:
        """An observer that has seen `x`, too: float, of any shape with the axes named.

        Raises:
            InvalidInput: no floats, no elements, a value that is not finite, no such axis, or other
                channels than before.
        """
        self._check(x)
        axis = self.spec.axis_of(tuple(x.shape)) if self._per_channel else None
        seen = histograms(x.detach().float(), axis, self.batch_axis, self._bins)
        if not all(abs(s.low) < float("inf") and abs(s.high) < float("inf") for s in seen):
            where = next(i for i, s in enumerate(seen) if not abs(s.high) + abs(s.low) < 1e300)
            channel = f"channel {where} of x" if self._per_channel else "x"
            raise InvalidInput(
                f"Observer: {channel} is not finite ({seen[where].low} to {seen[where].high}); "
                "no scale covers infinity or NaN"
            )
        return self.merged(replace(self, sketches=seen))

    def merged(self, other: Observer) -> Observer:
        """An observer that has seen what this one has, and then what the other has.

        Raises:
            InvalidInput: the two have other settings, or other channels.
        """
        if replace(other, sketches=()) != replace(self, sketches=()):
            raise InvalidInput(f"Observer: {self._settings()} and {other._settings()} do not merge")
        if not self.sketches or not other.sketches:
            return self if other.sketches == () else other
        if len(self.sketches) != len(other.sketches):
            raise InvalidInput(
                f"Observer: {len(self.sketches)} channels before, {len(other.sketches)} now"
            )
        pairs = zip(self.sketches, other.sketches, strict=True)
        return replace(self, sketches=tuple(mine.merged(theirs) for mine, theirs in pairs))

    def scale_zero_point(self) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 scales and integer zero points: scalars, or a vector of channels.

        What was zero throughout has the scale of a range of 1.

        Raises:
            InvalidInput: nothing was observed.
        """
        if not self.sketches:
            raise InvalidInput("Observer: nothing was observed yet; call observe(x) first")
        form = self.spec.format
        levels = int(form.levels)
        grids = [choose_grid(s, self.method, self.spec.symmetric, levels) for s in self.sketches]
        scale = torch.tensor([grid.scale for grid in grids], dtype=torch.float32)
        zero = torch.tensor([grid.zero_point + int(form.low) for grid in grids], dtype=torch.int64)
        zero = zero.to(form.storage)
        return (scale, zero) if self._per_channel else (scale[0], zero[0])

    @property
    def _per_channel(self) -> bool:
        return self.spec.granularity == "channel"

    @property
    def _bins(self) -> int:
        if self.method in _EXTREMES:
            return BINS_OF_EXTREMES
        return BINS_PER_CHANNEL if self._per_channel else NUM_BINS

    def _settings(self) -> str:
        return f"Observer({self.method!r}, {self.spec}, batch_axis={self.batch_axis})"

    def _check(self, x: torch.Tensor) -> None:
        if not x.is_floating_point() or x.numel() == 0:
            raise InvalidInput(f"Observer: x is {x.dtype} {list(x.shape)}; floats, at least one")
        axis = self.batch_axis
        if axis is not None and not -x.dim() <= axis < x.dim():
            raise InvalidInput(
                f"Observer(batch_axis={axis}): x has the shape {list(x.shape)}; give the axis of "
                "the samples, or None"
            )
        if (
            axis is not None
            and self._per_channel
            and axis % x.dim() == self.spec.axis_of(tuple(x.shape))
        ):
            raise InvalidInput(
                f"Observer: axis {axis} is that of the channels and that of the samples; give "
                "batch_axis=None for a tensor without samples, such as a weight"
            )

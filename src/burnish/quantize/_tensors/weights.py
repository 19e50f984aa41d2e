"""Weights to int8, per output channel and symmetric, and biases to the int32 the kernels add.

The scale of a channel is its largest magnitude over 127; -128 is never used. In *half range* it is
that over 63: two products with uint8 activations then fit 16 bits, 2 * 255 * 63 < 2^15, which is
what kernels without VNNI add them in. With fewer bits the integers are -2^(b-1) to 2^(b-1) - 1, and
the scale is the one of a grid of shrunken ones that rounds a channel's weights with the least
squared error, since clipping the largest few costs less there than coarse steps for all.

A bias is rounded to the grid of the accumulators, input scale times weight scale; where a channel's
weights are so small that the bias would not fit 32 bits there, the channel's weight scale is
widened until it does.

Left out: scales that weigh a weight's error with its input's power; learned rounding does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

INT32 = 2**31 - 1
_SHRUNK = torch.linspace(0.2, 1.0, 65, dtype=torch.float64)


@dataclass(frozen=True)
class Grid:
    """The integers a weight may take, and whether its scale may clip the largest."""

    low: int = -127
    high: int = 127
    clips: bool = False


FULL = Grid()


def grid_of(bits: int, half: bool) -> Grid:
    """The grid of so many bits, within -63 to 63 where `half`."""
    if bits == 8:
        return Grid(-63, 63) if half else FULL
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return Grid(max(low, -63) if half else low, high, clips=True)


def weight_scales(
    weight: torch.Tensor,
    axis: int | None,
    bias: torch.Tensor | None,
    input_scale: float,
    grid: Grid = FULL,
) -> torch.Tensor:
    """float32 scales: one for each index of `axis`, or a scalar where `axis` is None."""
    by_channel = weight.detach().double()
    by_channel = (by_channel if axis is None else by_channel.movedim(axis, 0)).reshape(
        1 if axis is None else weight.shape[axis], -1
    )
    scale = torch.maximum(by_channel.amax(1) / grid.high, by_channel.amin(1) / grid.low)
    if grid.clips:
        scale = _least_error(by_channel, scale, grid)
    if axis is None:
        scale = scale.squeeze(0)
    if bias is not None:
        room = bias.double().abs() / (0.9 * INT32 * input_scale)
        scale = torch.maximum(scale, room if axis is not None else room.max())
    # A channel of zeros has any scale; the least normal float keeps the division defined.
    return scale.clamp_min(1e-20).float()


def _least_error(weight: torch.Tensor, widest: torch.Tensor, grid: Grid) -> torch.Tensor:
    """For each row of [channels, weights] the shrunken scale that rounds it best."""
    best, least = widest, torch.full_like(widest, float("inf"))
    for factor in _SHRUNK.flip(0):
        scale = (widest * factor).clamp_min(1e-20).unsqueeze(1)
        rounded = (weight / scale).round_().clamp_(grid.low, grid.high).mul_(scale)
        error = rounded.sub_(weight).square_().sum(1)
        better = error < least
        best = torch.where(better, scale.squeeze(1), best)
        least = torch.where(better, error, least)
    return best


def round_weight(
    weight: torch.Tensor, scale: torch.Tensor, axis: int | None, grid: Grid = FULL
) -> torch.Tensor:
    """int8 weights on the grid of `scale`, half to even."""
    steps = (weight.detach() / along(scale, weight, axis)).round()
    return steps.clamp(grid.low, grid.high).to(torch.int8)


def round_bias(bias: torch.Tensor, input_scale: float, scale: torch.Tensor) -> torch.Tensor:
    """int32 biases on the grid of the accumulators."""
    grid = scale.double() * input_scale
    return (bias.double() / grid).round().clamp(-INT32, INT32).to(torch.int32)


def along(vector: torch.Tensor, tensor: torch.Tensor, axis: int | None) -> torch.Tensor:
    """A vector shaped to broadcast along one axis of a tensor."""
    if axis is None:
        return vector
    shape = [1] * tensor.dim()
    shape[axis] = -1
    return vector.reshape(shape)

"""Weights to int8, per output channel and symmetric, and biases to the int32 the kernels add.

The scale of a channel is its largest magnitude over 127, so that -128 is never used and products of
two int8 pairs cannot overflow the kernels' 16-bit sums at the extreme. A bias is rounded to the
grid of the accumulators, input scale times weight scale; where a channel's weights are so small
that the bias would not fit 32 bits there, the channel's weight scale is widened until it does.

*Bias correction* takes the mean error that rounding the weights puts on each output off the bias:
E[W'x] - E[Wx] = (W' - W) E[x], with E[x] per input channel from calibration (Nagel et al. 2019,
section 4.2; the closed form, layer by layer, without a second pass).

Left out: corrections that see the errors of the layers before (sequential bias correction).
"""

from __future__ import annotations

import torch

INT32 = 2**31 - 1


def weight_scales(
    weight: torch.Tensor, axis: int | None, bias: torch.Tensor | None, input_scale: float
) -> torch.Tensor:
    """float32 scales: one for each index of `axis`, or a scalar where `axis` is None."""
    if axis is None:
        largest = weight.abs().max()
    else:
        largest = weight.abs().amax([a for a in range(weight.dim()) if a != axis])
    scale = largest.double() / 127
    if bias is not None:
        room = bias.double().abs() / (0.9 * INT32 * input_scale)
        scale = torch.maximum(scale, room if axis is not None else room.max())
    # A channel of zeros has any scale; the least normal float keeps the division defined.
    return scale.clamp_min(1e-20).float()


def round_weight(weight: torch.Tensor, scale: torch.Tensor, axis: int | None) -> torch.Tensor:
    """int8 weights on the grid of `scale`, half to even."""
    return (weight / along(scale, weight, axis)).round().clamp(-127, 127).to(torch.int8)


def round_bias(bias: torch.Tensor, input_scale: float, scale: torch.Tensor) -> torch.Tensor:
    """int32 biases on the grid of the accumulators."""
    grid = scale.double() * input_scale
    return (bias.double() / grid).round().clamp(-INT32, INT32).to(torch.int32)


def bias_shift(
    weight: torch.Tensor, rounded: torch.Tensor, mean: torch.Tensor, kind: str, groups: int
) -> torch.Tensor:
    """(W' - W) E[x] for each output channel, float64.

    Args:
        weight: [out, in/groups, ...] ([in, out/groups, ...] transposed).
        rounded: the same, quantized and dequantized.
        mean: [in], the mean of each input channel.
        kind: the operator's name.
        groups: its groups.
    """
    error = (rounded - weight).double()
    error = error.reshape(*error.shape[:2], -1).sum(-1)
    if kind.startswith("conv_transpose"):
        grouped = error.reshape(groups, -1, error.shape[1])
        return torch.einsum("gio,gi->go", grouped, mean.reshape(groups, -1)).reshape(-1)
    grouped = error.reshape(groups, -1, error.shape[1])
    return torch.einsum("goi,gi->go", grouped, mean.reshape(groups, -1)).reshape(-1)


def along(vector: torch.Tensor, tensor: torch.Tensor, axis: int | None) -> torch.Tensor:
    """A vector shaped to broadcast along one axis of a tensor."""
    if axis is None:
        return vector
    shape = [1] * tensor.dim()
    shape[axis] = -1
    return vector.reshape(shape)

"""Quantize and dequantize as operators of our own.

`burnish::quantize(x, scale, zero_point, axis)` is ONNX's QuantizeLinear: divide by the scale, round
half to even, add the zero point, saturate; the zero point's dtype is the result's.
`burnish::dequantize(q, scale, zero_point, axis)` is `(q - zero_point) * scale` in float32. Scale
and zero point are scalars with axis -1 (per tensor) or vectors along `axis` (per channel).

Operators of our own because upstream's come and go: only `torch.library` and each runtime's
translation of these two names stand between us and a release of torch.

Left out: per-block scales and types below 8 bits.
"""

from __future__ import annotations

import torch

PER_TENSOR = -1


def _along(vector: torch.Tensor, x: torch.Tensor, axis: int) -> torch.Tensor:
    if axis == PER_TENSOR:
        return vector
    shape = [1] * x.dim()
    shape[axis] = -1
    return vector.reshape(shape)


@torch.library.custom_op("burnish::quantize", mutates_args=())
def quantize(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, axis: int
) -> torch.Tensor:
    """Float tensor to integers of the zero point's dtype (ONNX QuantizeLinear)."""
    limits = torch.iinfo(zero_point.dtype)
    rounded = torch.round(x / _along(scale, x, axis)) + _along(zero_point, x, axis)
    # A NaN becomes the least integer, as in onnxruntime; converting it is undefined in torch.
    saturated = rounded.clamp(limits.min, limits.max).nan_to_num_(nan=limits.min)
    return saturated.to(zero_point.dtype)


@quantize.register_fake
def _(x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, axis: int) -> torch.Tensor:
    return torch.empty_like(x, dtype=zero_point.dtype)


@torch.library.custom_op("burnish::dequantize", mutates_args=())
def dequantize(
    q: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, axis: int
) -> torch.Tensor:
    """Integers to float32 (ONNX DequantizeLinear)."""
    shifted = q.to(torch.int32) - _along(zero_point, q, axis).to(torch.int32)
    return shifted.to(scale.dtype) * _along(scale, q, axis)


@dequantize.register_fake
def _(q: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, axis: int) -> torch.Tensor:
    return torch.empty_like(q, dtype=scale.dtype)


QUANTIZE = torch.ops.burnish.quantize.default
DEQUANTIZE = torch.ops.burnish.dequantize.default

"""Quantizing a tensor, bit for bit as ONNX's QuantizeLinear.

    q = saturate(round(x / scale) + zero_point)

x and scale are converted to the precision of the division (the scale's dtype, unless the spec names
another), the quotient is rounded half to even, the zero point is added, and what is beyond the
format's range becomes its end. Float formats round the quotient itself (`minifloat`).

    infinity   the end of the range (float16, bfloat16, unsaturated float8: see `minifloat`)
    NaN        the least integer, as onnxruntime gives; ONNX's text is silent. float8, float16
               and bfloat16 keep it; float4 has none and takes 6
    denormals  as any number: neither flushed nor refused, in x or in the scale
    empty      an empty tensor
    scale      zero, negative, infinite or NaN: refused (`parameters`)

Where onnx.reference 1.23 leaves ONNX's text, this keeps to the text: quotients of 2^31 and beyond
saturate to their own end (there, to the least integer); a float32 x over a float16 or bfloat16
scale is divided in the scale's precision (there, in float32); float4 makes NaN 6 (there, zero).

Left out: float64 x (ONNX has none), int32 and float8_e8m0 scales.
"""

from __future__ import annotations

import torch

from burnish.errors import InvalidInput
from burnish.quantize._tensors.format import FORMATS, format_name
from burnish.quantize._tensors.minifloat import round_float
from burnish.quantize._tensors.parameters import as_parameters, check_scale
from burnish.quantize._tensors.spec import QSpec
from burnish.quantize._tensors.tensor import QTensor, quantized

INPUTS = (torch.float32, torch.float16, torch.bfloat16, torch.int32)


def quantize_tensor(
    x: torch.Tensor,
    scale: torch.Tensor | float,
    zero_point: torch.Tensor | int | None,
    spec: QSpec | torch.dtype | str,
    axis: int | None = None,
) -> QTensor:
    """Quantize a tensor with a given scale and zero point.

    Args:
        x: float32, float16, bfloat16 or int32, of any shape; empty is fine.
        scale: positive, in the shape the spec asks for: () per tensor, (D_axis,) per channel, x's
            own with D_axis replaced by ceil(D_axis / block_size) per block. A Python number is
            taken as float32.
        zero_point: integers of the scale's shape; None for zeros, and for float formats.
        spec: a `QSpec`; or a dtype, as in `torch.quantize_per_tensor(x, scale, zero_point, dtype)`:
            torch.quint8, torch.qint8, torch.qint32, any other format's name or dtype.
        axis: with a dtype only: one scale for each index of this axis, as in
            `quantize_tensor(x, scales, zero_points, torch.qint8, axis)`, which is what
            `torch.quantize_per_channel(x, scales, zero_points, axis, torch.qint8)` says.

    Raises:
        InvalidInput: a dtype, shape, axis, scale or zero point that does not fit.
    """
    if x.dtype not in INPUTS:
        raise InvalidInput(
            f"quantize_tensor: x is {x.dtype}: one of {', '.join(map(str, INPUTS))}; convert it"
        )
    spec = _as_spec(spec, scale, axis)
    scales, zeros = as_parameters(scale, zero_point, spec, tuple(x.shape), x.device)
    quotient = _divided(x.detach(), scales, spec)
    form = spec.format
    if zeros is None:
        if form.is_packed and zero_point is not None:
            # ONNX adds float4's zero point, which makes -0 into 0; float8's it leaves aside.
            quotient = quotient + 0.0
        elements = round_float(quotient, form, spec.saturate)
    else:
        elements = _integers(quotient, zeros, spec)
    return quantized(elements, scales, zeros, spec)


def _as_spec(
    spec: QSpec | torch.dtype | str, scale: torch.Tensor | float, axis: int | None
) -> QSpec:
    if isinstance(spec, QSpec):
        if axis is not None:
            raise InvalidInput(f"quantize_tensor: axis={axis} beside a QSpec, which has its own")
        return spec
    name = format_name(spec)
    symmetric = not FORMATS[name].is_integer
    if axis is not None:
        return QSpec(name, "channel", axis, symmetric=symmetric)
    if isinstance(scale, torch.Tensor) and scale.numel() != 1:
        raise InvalidInput(
            f"quantize_tensor: {scale.numel()} scales and no axis; name it (axis=0), or pass a "
            "QSpec with a granularity"
        )
    return QSpec(name, symmetric=symmetric)


def _divided(x: torch.Tensor, scale: torch.Tensor, spec: QSpec) -> torch.Tensor:
    """x / scale in the precision of the division, handed on in float32, which holds each result."""
    precision = scale.dtype if spec.precision is None else getattr(torch, spec.precision)
    divisor = scale.to(precision)
    check_scale(divisor, f" in the division's precision, {precision}")
    return (x.to(precision) / spec.spread(divisor, tuple(x.shape))).float()


def _integers(quotient: torch.Tensor, zeros: torch.Tensor, spec: QSpec) -> torch.Tensor:
    form = spec.format
    # float64 holds every bound exactly; for 16 bits and less float32 does.
    wide = quotient.double() if form.bits == 32 else quotient
    shifted = wide.round().add_(spec.spread(zeros.to(wide.dtype), tuple(wide.shape)))
    shifted.nan_to_num_(nan=form.low, posinf=form.high, neginf=form.low)
    return shifted.clamp_(form.low, form.high).to(form.storage)

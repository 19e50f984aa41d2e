"""Choosing a scale and a zero point from a tensor's own values, so that nothing saturates.

    asymmetric   scale = (max(x, 0) - min(x, 0)) / levels, zero point = round(low - min / scale)
    symmetric    scale = max |x| / reach: the range is -127..127 for int8, so that both signs have
                 the same steps; the least integer is not used
    float        scale = max |x| / the format's largest number; bfloat16 and float16 hold floats as
                 they are, so 1, or the power of two that keeps float16 finite

The asymmetric rule for uint8 per tensor is ONNX's DynamicQuantizeLinear, in its own float32 steps,
and so `quantize_tensor_dynamic` equals that operator bit for bit.

Values that are all zero get the scale of a range of 1, as onnx.reference gives (ONNX's text would
divide zero by zero). A range so small that its scale rounds to zero gets the least positive float32
(2^-149): every x is a multiple of that, so nothing is lost, except on a machine that flushes
denormals. Infinities and NaN have no range and are refused.

Left out: ranges that clip what is rare; observers choose those, from more than one tensor.
"""

from __future__ import annotations

import math

import torch

from burnish.errors import InvalidInput
from burnish.quantize._tensors.format import Format
from burnish.quantize._tensors.quantize import INPUTS, quantize_tensor
from burnish.quantize._tensors.spec import QSpec
from burnish.quantize._tensors.tensor import QTensor

_LEAST = math.ldexp(1.0, -149)
DYNAMIC = QSpec("uint8", symmetric=False)


def choose_scale(x: torch.Tensor, spec: QSpec) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The scale and zero point that cover a tensor's values, zero always exact.

    Args:
        x: float32, float16, bfloat16 or int32, of any shape. Without values: as if all zero.
        spec: format and granularity.

    Returns:
        float32 scales, and zero points in the dtype that holds an integer of the format, both of
        shape `spec.scale_shape(x.shape)`; no zero point (None) for a float format.

    Raises:
        InvalidInput: x holds infinities or NaN, or is of another dtype; the range of an asymmetric
            spec is wider than float32 holds; no such axis.
    """
    low, high = _extremes(x, spec)
    form = spec.format
    if not form.is_integer:
        return _float_scale(torch.maximum(-low, high), form), None
    if spec.symmetric:
        scale = _scale(torch.maximum(-low, high), form.reach)
        return scale, torch.full_like(scale, form.middle, dtype=torch.int32).to(form.storage)
    extent = high - low
    if not bool(torch.isfinite(extent).all()):
        raise InvalidInput(
            f"choose_scale: the range {float(low.min())} to {float(high.max())} is wider than "
            "float32 holds; scale x down, or use a symmetric spec"
        )
    scale = _scale(extent, form.levels)
    zero = (form.low - low / scale).clamp(form.low, form.high).round()
    # float32 rounds 32-bit bounds up, out of int32.
    integers = zero.to(torch.int64).clamp(int(form.low), int(form.high))
    return scale, integers.to(torch.int32).to(form.storage)


def quantize_tensor_dynamic(x: torch.Tensor, spec: QSpec = DYNAMIC) -> QTensor:
    """Quantize a tensor with the scale and zero point of its own range.

    With the default spec this is ONNX's DynamicQuantizeLinear.

    Raises:
        InvalidInput: as `choose_scale`.
    """
    scale, zero_point = choose_scale(x, spec)
    return quantize_tensor(x, scale, zero_point, spec)


def _scale(extent: torch.Tensor, steps: float) -> torch.Tensor:
    extent = torch.where(extent == 0, torch.ones_like(extent), extent)
    return (extent / torch.tensor(steps, device=extent.device)).clamp_min(_LEAST)


def _float_scale(largest: torch.Tensor, form: Format) -> torch.Tensor:
    if form.bits < 16:
        return _scale(largest, form.high)
    # A power of two moves the exponent and rounds nothing.
    beyond = (largest.double() / form.high).log2().ceil().clamp_min(0)
    return beyond.exp2().float()


def _extremes(x: torch.Tensor, spec: QSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """Least and largest value of each group, zero included, in the scale's shape."""
    if x.dtype not in INPUTS:
        raise InvalidInput(
            f"choose_scale: x is {x.dtype}: one of {', '.join(map(str, INPUTS))}; convert it"
        )
    groups = _grouped(x.detach().float(), spec)
    if groups.shape[-1] == 0:
        zeros = groups.new_zeros(groups.shape[:-1])
        return zeros, zeros
    low, high = groups.amin(-1), groups.amax(-1)
    if not bool((torch.isfinite(low) & torch.isfinite(high)).all()):
        raise InvalidInput(
            f"choose_scale: {int((~torch.isfinite(x)).sum())} of {x.numel()} values are infinite "
            "or NaN, which no scale covers; find where they come from, or clamp them"
        )
    low, high = low.clamp_max(0), high.clamp_min(0)
    if spec.granularity != "block":
        return low, high
    axis = spec.axis_of(tuple(x.shape))
    return low.movedim(-1, axis), high.movedim(-1, axis)


def _grouped(x: torch.Tensor, spec: QSpec) -> torch.Tensor:
    """The values with the members of each group along the last axis."""
    if spec.granularity == "tensor":
        return x.reshape(-1)
    first = x.movedim(spec.axis_of(tuple(x.shape)), 0)
    if spec.block_size is None:
        return first.unsqueeze(-1).flatten(1)
    last = first.movedim(0, -1)
    blocks = math.ceil(last.shape[-1] / spec.block_size)
    # Zero is in every range, so filling the last block up with zeros changes none.
    fill = blocks * spec.block_size - last.shape[-1]
    padded = torch.nn.functional.pad(last, (0, fill))
    return padded.reshape(*last.shape[:-1], blocks, spec.block_size)

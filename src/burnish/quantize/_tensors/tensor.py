"""A quantized tensor: storage, scale, zero point, and the way back to floats.

Dequantizing is ONNX's DequantizeLinear: (q - zero_point) * scale, the difference exact, the product
in float32 and rounded once to the result's dtype. ONNX says that the output's type "determines the
precision of the multiplication"; like onnx.reference and onnxruntime this computes the product at
least that precisely, so that a 16-bit integer does not overflow float16 on its way to a float16
result that exists.

Left out: arithmetic on quantized tensors. Operators run on integers inside a runtime, or on the
dequantized tensor here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch

from burnish.errors import InvalidInput
from burnish.quantize._tensors.format import Format
from burnish.quantize._tensors.minifloat import float4_values
from burnish.quantize._tensors.pack import pack, packed_size, unpack
from burnish.quantize._tensors.parameters import as_parameters
from burnish.quantize._tensors.spec import QSpec

RESULTS = (torch.float32, torch.float16, torch.bfloat16)
_BITS = {1: torch.uint8, 2: torch.int16}


@dataclass(frozen=True, eq=False)
class QTensor:
    """A tensor in a number format. Made by `quantize_tensor` or `QTensor.from_int_repr`.

    Args:
        storage: formats of 8 bits and more: elements of the format's dtype in `shape`; below: a
            vector of bytes, packed as ONNX packs them, lowest bits first.
        scale: float32, float16 or bfloat16, in the shape the spec asks for.
        zero_point: like the scale, in the dtype that holds an integer of the format (int8 or uint8
            below 8 bits); None for a float format.
        spec: format and granularity.
        shape: the tensor's.
    """

    storage: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor | None
    spec: QSpec
    shape: tuple[int, ...]

    @classmethod
    def from_int_repr(
        cls,
        values: torch.Tensor,
        scale: torch.Tensor | float,
        zero_point: torch.Tensor | int | None,
        spec: QSpec,
    ) -> Self:
        """The tensor whose `int_repr()` these values are: integers, or a float format's bits.

        Raises:
            InvalidInput: values that are no integers or do not fit the format; scale or zero point
                as in `quantize_tensor`.
        """
        form = spec.format
        shape = tuple(values.shape)
        scales, zeros = as_parameters(scale, zero_point, spec, shape, values.device)
        if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
            raise InvalidInput(
                f"QTensor.from_int_repr: integers are wanted, not {values.dtype}; for floats there "
                "is quantize_tensor"
            )
        low, high = _repr_range(form)
        wide = values.to(torch.int64)
        if wide.numel() and (wide.min() < low or wide.max() > high):
            raise InvalidInput(
                f"QTensor.from_int_repr: values from {wide.min()} to {wide.max()} do not fit "
                f"{form.name}, whose representation goes from {low:.0f} to {high:.0f}"
            )
        if form.is_packed or form.is_integer:
            elements = wide.to(form.storage)
        else:
            elements = wide.to(_BITS[form.bits // 8]).view(form.storage)
        return cls(_stored(elements, form), scales, zeros, spec, shape)

    def int_repr(self) -> torch.Tensor:
        """The integers stored, in `shape` (int8 or uint8 below 8 bits).

        Of a float format, the bit patterns: uint8 (float4: 0..15), or int16 for the 16-bit ones.
        """
        elements = self._elements()
        form = self.spec.format
        if form.is_integer or form.is_packed:
            return elements
        return elements.view(_BITS[form.bits // 8])

    def dequantize(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The tensor in floats, (q - zero_point) * scale.

        Args:
            dtype: float32, float16 or bfloat16; the scale's dtype where None.

        Raises:
            InvalidInput: another dtype.
        """
        dtype = self.scale.dtype if dtype is None else dtype
        if dtype not in RESULTS:
            raise InvalidInput(
                f"dequantize(dtype={dtype}): one of {', '.join(map(str, RESULTS))}, or None for "
                f"the scale's, {self.scale.dtype}"
            )
        product = self._differences() * self.spec.spread(self.scale.float(), self.shape)
        return product.to(dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of storage, scales and zero points, the last packed like the values."""
        scales = self.scale.numel() * self.scale.element_size()
        values = self.storage.numel() * self.storage.element_size()
        if self.zero_point is None:
            return values + scales
        return values + scales + packed_size(self.zero_point.numel(), self.spec.format.bits)

    def _elements(self) -> torch.Tensor:
        form = self.spec.format
        if not form.is_packed:
            return self.storage
        signed = form.is_integer and form.low < 0
        return unpack(self.storage, form.bits, math.prod(self.shape), signed).reshape(self.shape)

    def _differences(self) -> torch.Tensor:
        """q - zero_point in float32; the value itself for a float format."""
        elements = self._elements()
        if self.spec.dtype == "float4_e2m1":
            return float4_values(elements)
        if self.zero_point is None:
            return elements.float()
        # Of 32-bit integers the difference takes 33 bits.
        wide = torch.int64 if self.spec.format.bits == 32 else torch.int32
        zeros = self.spec.spread(self.zero_point.to(wide), self.shape)
        return (elements.to(wide) - zeros).float()


def quantized(
    elements: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None, spec: QSpec
) -> QTensor:
    """From elements in the format's storage dtype and parameters already checked."""
    return QTensor(_stored(elements, spec.format), scale, zero_point, spec, tuple(elements.shape))


def _stored(elements: torch.Tensor, form: Format) -> torch.Tensor:
    assert elements.dtype == form.storage, elements.dtype
    return pack(elements, form.bits) if form.is_packed else elements.contiguous()


def _repr_range(form: Format) -> tuple[float, float]:
    if form.is_integer:
        return form.low, form.high
    return (-(1 << 15), (1 << 15) - 1) if form.bits == 16 else (0, (1 << form.bits) - 1)

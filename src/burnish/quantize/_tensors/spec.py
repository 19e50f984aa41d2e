"""What a quantized tensor is: its format and which elements share a scale.

    "tensor"    one scale                                 scale shape ()
    "channel"   one for each index of an axis             (D_axis,)
    "block"     one for each block of elements along      the tensor's, with D_axis replaced by
                an axis, at each index of all others      ceil(D_axis / block_size)

These are ONNX's three granularities. Where a block size does not divide the axis the last block is
shorter, as ONNX rules: nothing is padded, nothing is refused.

Left out: blocks over several axes at once; a granularity of several axes (ONNX has neither).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from burnish.errors import InvalidInput
from burnish.quantize._tensors.format import FORMATS, Format, format_name

Granularity = Literal["tensor", "channel", "block"]
Precision = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class QSpec:
    """A number format and a granularity.

    Args:
        dtype: a format's name, "int8" for one; a torch dtype is turned into its name.
        granularity: "tensor", "channel" or "block".
        axis: of the channels or of the blocks; negative counts from the back. Not read per tensor.
        block_size: elements a block, where the granularity is "block".
        symmetric: the zero point is 0 (unsigned: half of the range, 128 for uint8). Float formats
            have no zero point and are always symmetric.
        saturate: what is beyond a float8's largest number becomes it; else infinity or NaN.
            Integers and float4 always saturate; float16 and bfloat16 never do.
        precision: of the division by the scale (ONNX's attribute of that name); None: the scale's
            dtype, whatever the dtype of x.

    Raises:
        InvalidInput: an unknown name, a block size without blocks or below 1, blocks without a
            block size, an asymmetric float format.
    """

    dtype: str = "int8"
    granularity: Granularity = "tensor"
    axis: int = 0
    block_size: int | None = None
    symmetric: bool = True
    saturate: bool = True
    precision: Precision | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", format_name(self.dtype))
        _one_of("granularity", self.granularity, get_args(Granularity))
        _one_of("precision", self.precision, (None, *get_args(Precision)))
        if (self.granularity == "block") != (self.block_size is not None):
            raise InvalidInput(
                f"QSpec(granularity={self.granularity!r}, block_size={self.block_size}): "
                'granularity "block" goes with a block size, the others without'
            )
        if self.block_size is not None and self.block_size < 1:
            raise InvalidInput(f"QSpec(block_size={self.block_size}): at least 1")
        if not (self.symmetric or self.format.is_integer):
            raise InvalidInput(
                f"QSpec({self.dtype!r}, symmetric=False): a float format has no zero point; "
                "leave symmetric at True"
            )

    @property
    def format(self) -> Format:
        """The entry of the table of formats."""
        return FORMATS[self.dtype]

    def scale_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the scale (and of the zero point) for a tensor of this shape."""
        if self.granularity == "tensor":
            return ()
        axis = self.axis_of(shape)
        if self.block_size is None:
            return (shape[axis],)
        blocks = math.ceil(shape[axis] / self.block_size)
        return (*shape[:axis], blocks, *shape[axis + 1 :])

    def axis_of(self, shape: tuple[int, ...]) -> int:
        """The axis, counted from the front. InvalidInput where the tensor has no such axis."""
        if not -len(shape) <= self.axis < len(shape):
            raise InvalidInput(
                f"QSpec(granularity={self.granularity!r}, axis={self.axis}): a tensor of shape "
                f"{list(shape)} has no such axis"
            )
        return self.axis % len(shape)

    def spread(self, value: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        """A scale or a zero point, shaped to broadcast over a tensor of this shape."""
        if self.granularity == "tensor":
            return value
        axis = self.axis_of(shape)
        if self.block_size is None:
            return value.reshape([-1 if a == axis else 1 for a in range(len(shape))])
        return value.repeat_interleave(self.block_size, axis).narrow(axis, 0, shape[axis])


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        names = ", ".join(map(repr, allowed))
        raise InvalidInput(f"QSpec({name}={value!r}): one of {names}")

"""The number formats a tensor can be stored in, by the names numpy, torch and ONNX share.

An integer format holds q and means (q - zero_point) * scale. A float format holds f and means
f * scale; it has no zero point. Formats under 8 bits are packed in storage (`pack`).

    integer   int2 uint2 int4 uint4 int8 uint8 int16 uint16 int32
    float     float4_e2m1  float8_e4m3fn  float8_e4m3fnuz  float8_e5m2  float8_e5m2fnuz
              bfloat16 float16

torch's quantized dtypes (quint8, qint8, qint32, quint4x2, quint2x4) name the same formats.

Left out: float6, and float8_e8m0, which holds scales, not values (float32 holds each of them
exactly: convert).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from burnish.errors import InvalidInput


@dataclass(frozen=True)
class Format:
    """One number format. `storage` is the dtype that holds one unpacked element."""

    name: str
    bits: int
    low: float
    high: float
    storage: torch.dtype
    is_integer: bool

    @property
    def is_packed(self) -> bool:
        """Whether several elements share a byte."""
        return self.bits < 8

    @property
    def middle(self) -> int:
        """The zero point of symmetric quantization: 0, or half of an unsigned format's range."""
        return 0 if self.low < 0 else 1 << (self.bits - 1)

    @property
    def reach(self) -> float:
        """The largest magnitude that symmetric quantization has on both sides of zero."""
        return self.high - self.middle

    @property
    def levels(self) -> float:
        """The steps between the least and the largest integer."""
        return self.high - self.low


def _integer(name: str, bits: int, storage: torch.dtype) -> Format:
    low = 0 if name.startswith("u") else -(1 << (bits - 1))
    return Format(name, bits, low, low + (1 << bits) - 1, storage, is_integer=True)


def _float(name: str, bits: int, high: float, storage: torch.dtype) -> Format:
    return Format(name, bits, -high, high, storage, is_integer=False)


_ALL = (
    _integer("int2", 2, torch.int8),
    _integer("uint2", 2, torch.uint8),
    _integer("int4", 4, torch.int8),
    _integer("uint4", 4, torch.uint8),
    _integer("int8", 8, torch.int8),
    _integer("uint8", 8, torch.uint8),
    _integer("int16", 16, torch.int16),
    _integer("uint16", 16, torch.uint16),
    _integer("int32", 32, torch.int32),
    _float("float4_e2m1", 4, 6.0, torch.uint8),
    _float("float8_e4m3fn", 8, 448.0, torch.float8_e4m3fn),
    _float("float8_e4m3fnuz", 8, 240.0, torch.float8_e4m3fnuz),
    _float("float8_e5m2", 8, 57344.0, torch.float8_e5m2),
    _float("float8_e5m2fnuz", 8, 57344.0, torch.float8_e5m2fnuz),
    _float("bfloat16", 16, torch.finfo(torch.bfloat16).max, torch.bfloat16),
    _float("float16", 16, torch.finfo(torch.float16).max, torch.float16),
)
FORMATS = {form.name: form for form in _ALL}

# torch's own names for what a format above holds. By name: torch is about to drop some of them.
_TORCH_NAMES = {
    "quint8": "uint8",
    "qint8": "int8",
    "qint32": "int32",
    "quint4x2": "uint4",
    "quint2x4": "uint2",
    "float4_e2m1fn_x2": "float4_e2m1",
}


def format_name(dtype: str | torch.dtype) -> str:
    """The name of the format that a name or a torch dtype stands for.

    Raises:
        InvalidInput: there is no such format.
    """
    name = str(dtype).removeprefix("torch.")
    name = _TORCH_NAMES.get(name, name)
    if name not in FORMATS:
        raise InvalidInput(f"no number format {str(dtype)!r}: one of {', '.join(FORMATS)}")
    return name

"""Packing codes of 2 or 4 bits into bytes, in ONNX's order.

The first element takes the lowest bits of the first byte; elements follow in row-major order across
all axes, so a row may begin in the middle of a byte. Bits left over in the last byte are zero.

Left out: rows aligned to bytes, which some kernels want of weights.
"""

from __future__ import annotations

import torch


def packed_size(count: int, bits: int) -> int:
    """The bytes that `count` elements of `bits` bits take."""
    return (count * bits + 7) // 8


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes (uint8 below 2^bits, or int8 in two's complement; any shape) to a vector of bytes."""
    per_byte = 8 // bits
    flat = codes.reshape(-1).view(torch.uint8) & ((1 << bits) - 1)
    fill = -flat.numel() % per_byte
    columns = torch.nn.functional.pad(flat, (0, fill)).reshape(-1, per_byte)
    packed = torch.zeros_like(columns[:, 0])
    for place in range(per_byte):
        packed |= columns[:, place] << (place * bits)
    return packed


def unpack(packed: torch.Tensor, bits: int, count: int, signed: bool) -> torch.Tensor:
    """The first `count` codes: uint8, or int8 with the sign extended."""
    places = [packed >> shift for shift in range(0, 8, bits)]
    codes = torch.stack(places, -1).reshape(-1)[:count] & ((1 << bits) - 1)
    if not signed:
        return codes
    half = 1 << (bits - 1)
    return (codes ^ half).view(torch.int8) - half

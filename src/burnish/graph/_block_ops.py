"""Weights stored in 8 or 4 bits a number, as an operator of our own that makes floats of them.

`burnish::dequantize_blocks(packed, scale, zero_point, bits, block_size, sizes)` gives a float
tensor of `sizes`, for whatever operator reads a weight. The weight is a matrix: its first axis is
the rows, all others together are a row ([out, in] of a linear layer, [out, in/groups * kernel] of a
convolution). Each `block_size` numbers of a row share a scale and a zero point, and are
`(code - zero_point) * scale`; codes and zero points go from 0 to 2^bits - 1, and without zero
points the middle, 2^(bits - 1), is zero.

    packed      uint8 [rows, blocks, block_size * bits / 8], the first number in the lowest bits
    scale       float32 [rows, blocks]
    zero_point  uint8 [rows, blocks], one a byte, or None

Where the block size does not divide a row, the last block is filled up with codes that nobody
reads. This is the layout of onnxruntime's MatMulNBits, and, row by row, that of ONNX's uint4 and
uint8 with a block size.

The operator is exact in float32: the difference is a small integer, and there is one product. A
runtime that keeps a weight compressed reads this operator together with the one behind it.

Left out: 2 and 3 bits, for which neither runtime has a kernel here; float zero points; gradients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


@torch.library.custom_op("burnish::dequantize_blocks", mutates_args=())
def dequantize_blocks(
    packed: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    bits: int,
    block_size: int,
    sizes: Sequence[int],
) -> torch.Tensor:
    """Packed codes to floats of the scale's dtype, in `sizes`."""
    codes = packed if bits == 8 else torch.stack((packed & 15, packed >> 4), -1)
    values = codes.reshape(*scale.shape, block_size).to(scale.dtype)
    values -= 1 << (bits - 1) if zero_point is None else zero_point.unsqueeze(-1)
    values *= scale.unsqueeze(-1)
    rows = values.reshape(scale.shape[0], -1)
    return rows[:, : math.prod(sizes[1:])].reshape(list(sizes)).contiguous()


@dequantize_blocks.register_fake
def _(
    packed: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    bits: int,
    block_size: int,
    sizes: Sequence[int],
) -> torch.Tensor:
    return scale.new_empty(list(sizes))


DEQUANTIZE_BLOCKS = torch.ops.burnish.dequantize_blocks.default

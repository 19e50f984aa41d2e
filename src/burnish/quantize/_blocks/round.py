"""Weights on the grids of blocks: what is stored, and rounding to the nearest.

A weight is a matrix [out, in] of unsigned codes; each `block_size` codes of a row share a scale and
a zero point, and stand for `(code - zero_point) * scale`. Rounding to nearest takes the scale that
covers a block's values, zero exact, and rounds each value by itself; the methods that do better
(HQQ, GPTQ, AWQ) choose other scales or other codes of the same form.

Numbers are those of `QSpec(granularity="block")` and `choose_scale`, row by row in pieces, so that
rounding a large matrix holds little more than its codes.

Left out: blocks of a whole row and other sizes than powers of two, which onnxruntime's kernels do
not take; scales in float16.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from burnish.errors import InvalidInput
from burnish.quantize._tensors.choose_scale import choose_scale
from burnish.quantize._tensors.pack import pack
from burnish.quantize._tensors.quantize import quantize_tensor
from burnish.quantize._tensors.spec import QSpec

BITS = (8, 4)
BLOCK_SIZES = (16, 32, 64, 128, 256)
_AT_ONCE = 1 << 22  # elements that are rounded in one piece

# Codes uint8 [out, in], scale float32 [out, blocks], zero point uint8 [out, blocks] (None: middle).
Rounded = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]


@dataclass(frozen=True)
class BlockSpec:
    """The grid of a weight stored in blocks.

    Args:
        bits: 8 or 4.
        block_size: numbers of a row that share a scale: 16, 32, 64, 128 or 256.
        symmetric: the zero point is the middle of the codes, and not stored.

    Raises:
        InvalidInput: other bits or block sizes.
    """

    bits: int = 4
    block_size: int = 32
    symmetric: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (("bits", BITS), ("block_size", BLOCK_SIZES)):
            value = getattr(self, name)
            if type(value) is not int or value not in allowed:
                listed = ", ".join(map(str, allowed))
                raise InvalidInput(
                    f"{name}={value!r}: one of {listed}, which both runtimes keep compressed"
                )
        if type(self.symmetric) is not bool:
            raise InvalidInput(f"symmetric={self.symmetric!r}: True or False")

    @property
    def high(self) -> int:
        """The largest code; the least is 0."""
        return (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        """The zero point of a symmetric grid."""
        return 1 << (self.bits - 1)

    @property
    def qspec(self) -> QSpec:
        """The same as a number format, of a matrix [out, in]."""
        return QSpec(f"uint{self.bits}", "block", 1, self.block_size, self.symmetric)

    def num_blocks(self, width: int) -> int:
        """Blocks of a row of so many numbers; the last may be shorter."""
        return math.ceil(width / self.block_size)


def block_scales(weight: torch.Tensor, spec: BlockSpec) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scale float32 and zero point uint8 [out, blocks] that cover the values of each block.

    Raises:
        InvalidInput: infinities or NaN.
    """
    scale, zero_point = choose_scale(weight, spec.qspec)
    return scale, None if spec.symmetric else zero_point


def round_to(
    weight: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None, spec: BlockSpec
) -> torch.Tensor:
    """The nearest codes, uint8 [out, in], half to even."""
    return quantize_tensor(weight, scale, _stored(scale, zero_point, spec), spec.qspec).int_repr()


def round_nearest(weight: torch.Tensor, spec: BlockSpec) -> Rounded:
    """Round each value of a float32 matrix [out, in] to the nearest of its block's grid."""
    codes, scales, zeros = [], [], []
    for rows in torch.split(weight.detach(), max(1, _AT_ONCE // max(1, weight.shape[1]))):
        scale, zero_point = block_scales(rows, spec)
        codes.append(round_to(rows, scale, zero_point, spec))
        scales.append(scale)
        if zero_point is not None:
            zeros.append(zero_point)
    return torch.cat(codes), torch.cat(scales), torch.cat(zeros) if zeros else None


def dequantize_rounded(rounded: Rounded, spec: BlockSpec) -> torch.Tensor:
    """The float32 matrix [out, in] that the codes stand for."""
    codes, scale, zero_point = rounded
    shape, grid = tuple(codes.shape), spec.qspec
    zeros = grid.spread(_stored(scale, zero_point, spec), shape)
    return (codes.float() - zeros) * grid.spread(scale, shape)


def stored_parts(rounded: Rounded, spec: BlockSpec) -> dict[str, torch.Tensor]:
    """What `graph.DEQUANTIZE_BLOCKS` reads, in its order: "packed", "scale", and "zero" if any.

    packed is uint8 [out, blocks, block_size * bits / 8]; what fills up a last block means zero.
    """
    codes, scale, zero_point = rounded
    missing = spec.num_blocks(codes.shape[1]) * spec.block_size - codes.shape[1]
    if missing:
        last = _stored(scale, zero_point, spec)[:, -1:]
        codes = torch.cat([codes, last.expand(-1, missing)], 1)
    stored = pack(codes, spec.bits) if spec.bits < 8 else codes
    packed = stored.reshape(*scale.shape, spec.block_size * spec.bits // 8)
    parts = {"packed": packed, "scale": scale}
    return parts if zero_point is None else {**parts, "zero": zero_point}


def _stored(scale: torch.Tensor, zero_point: torch.Tensor | None, spec: BlockSpec) -> torch.Tensor:
    if zero_point is not None:
        return zero_point
    return torch.full_like(scale, spec.middle, dtype=torch.uint8)

"""Weights in blocks against their definition, written out number by number in float64."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from burnish.graph import DEQUANTIZE_BLOCKS, trace


def restated(
    packed: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor | None,
    bits: int,
    block: int,
    sizes: list[int],
) -> np.ndarray:
    """(code - zero point) * scale, code by code from the bytes."""
    width = math.prod(sizes[1:])
    values = np.empty((sizes[0], width))
    for row in range(sizes[0]):
        for column in range(width):
            group, place = divmod(column, block)
            byte = int(packed[row, group, place * bits // 8])
            code = byte if bits == 8 else (byte >> 4 if place % 2 else byte % 16)
            point = 2 ** (bits - 1) if zero is None else int(zero[row, group])
            values[row, column] = (code - point) * float(scale[row, group])
    return values.reshape(sizes)


def drawn(bits: int, sizes: list[int], block: int, zeros: bool) -> tuple:
    generator = torch.Generator().manual_seed(bits + sizes[0])
    shape = (sizes[0], math.ceil(math.prod(sizes[1:]) / block))
    packed = torch.randint(0, 256, (*shape, block * bits // 8), generator=generator).byte()
    zero = torch.randint(0, 2**bits, shape, generator=generator).byte() if zeros else None
    return packed, torch.rand(shape, generator=generator) + 0.01, zero, bits, block, sizes


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize(
    ("sizes", "block"), [([3, 64], 32), ([5, 50], 16), ([4, 3, 3, 3], 32), ([2, 1], 256)]
)
def test_is_the_definition(bits: int, zeros: bool, sizes: list[int], block: int) -> None:
    """Whole blocks and shorter last ones, matrices and convolutions: exact."""
    args = drawn(bits, sizes, block, zeros)
    found = DEQUANTIZE_BLOCKS(*args)
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), restated(*args).astype(np.float32))


class Packed(nn.Module):
    """A linear layer over packed weights."""

    def __init__(self) -> None:
        super().__init__()
        packed, scale, zero, *self.rest = drawn(4, [6, 40], 32, True)
        for name, tensor in (("packed", packed), ("scale", scale), ("zero", zero)):
            self.register_buffer(name, tensor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = DEQUANTIZE_BLOCKS(self.packed, self.scale, self.zero, *self.rest)
        return nn.functional.linear(x, weight)


def test_is_traced_copied_and_stays_packed() -> None:
    model, x = Packed().eval(), torch.randn(3, 40)
    traced = trace(model, (x,))
    assert torch.equal(copy.deepcopy(traced)(x), model(x))
    nodes = [n for n in traced.graph_module.graph.nodes if n.target is DEQUANTIZE_BLOCKS]
    assert [tuple(node.meta["val"].shape) for node in nodes] == [(6, 40)]
    assert sum(t.nbytes for t in traced.state_dict().values()) < 6 * 40 * 2

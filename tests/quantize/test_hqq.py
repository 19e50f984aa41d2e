"""HQQ against its formulas, block by block in float64, and what it must achieve."""

from __future__ import annotations

import math

import pytest
import torch

from burnish.errors import InvalidInput
from burnish.quantize._blocks.hqq import BETA, KAPPA, STEPS, P, round_hqq
from burnish.quantize._blocks.round import BlockSpec, dequantize_rounded, round_nearest


def drawn(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    """Weights with heavy tails."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, width, generator=generator) * 0.05
    weight[torch.rand(rows, width, generator=generator) < 0.02] *= 6.0
    return weight


def oracle(block: list[float], scale: float, zero: int, high: int) -> tuple[float, int]:
    """The scale and zero point of one block, by the formulas of the file's docstring."""
    best, least, beta = (scale, zero), math.inf, BETA
    for _ in range(STEPS):
        codes = [min(max(round(w / scale) + zero, 0), high) for w in block]
        error = [w / scale - (q - zero) for w, q in zip(block, codes, strict=True)]
        loss = sum(scale * abs(e) for e in error)
        if loss < least:
            least, best = loss, (scale, zero)
        kept = []
        for e in error:
            size = max(abs(e) - max(abs(e), 1e-8) ** (P - 1) / beta, 0.0)
            kept.append(math.copysign(size, e))
        target = [w / scale - k for w, k in zip(block, kept, strict=True)]
        mean = sum(q - t for q, t in zip(codes, target, strict=True)) / len(block)
        zero = min(max(round(mean), 0), high)
        steps = [q - zero for q in codes]
        square = sum(step * step for step in steps)
        product = sum(step * t for step, t in zip(steps, target, strict=True))
        if square and product > 0:
            scale *= product / square
        beta *= KAPPA
    return best


def losses(weight: torch.Tensor, rounded, spec: BlockSpec) -> torch.Tensor:
    """Σ |w − ŵ| of each whole block."""
    off = (weight - dequantize_rounded(rounded, spec)).double().abs()
    whole = weight.shape[1] // spec.block_size * spec.block_size
    return off[:, :whole].reshape(len(weight), -1, spec.block_size).sum(2)


@pytest.mark.parametrize(("bits", "size", "width"), [(4, 16, 32), (4, 32, 40), (8, 16, 24)])
def test_it_follows_the_formulas(bits: int, size: int, width: int) -> None:
    spec, weight = BlockSpec(bits, size), drawn(6, width)
    codes, scale, zero = round_hqq(weight, spec)
    _, first, start = round_nearest(weight, spec)
    assert zero is not None
    assert start is not None
    agreed = 0
    for row in range(len(weight)):
        for block in range(spec.num_blocks(width)):
            part = slice(block * size, (block + 1) * size)
            wanted, at = oracle(
                weight[row, part].double().tolist(),
                float(first[row, block]),
                int(start[row, block]),
                spec.high,
            )
            same = int(zero[row, block]) == at
            agreed += same and math.isclose(float(scale[row, block]), wanted, rel_tol=1e-4)
    # A code on the edge between two integers may fall elsewhere in float32, and lead elsewhere.
    assert agreed >= 0.9 * scale.numel()
    again = (weight / spec.qspec.spread(scale, weight.shape)).round()
    again = (again + spec.qspec.spread(zero, weight.shape)).clamp(0, spec.high)
    assert torch.equal(codes, again.to(torch.uint8))


@pytest.mark.parametrize("bits", [4, 8])
def test_no_block_is_worse_than_to_nearest(bits: int) -> None:
    spec, weight = BlockSpec(bits, 32), drawn(64, 96)
    fitted = losses(weight, round_hqq(weight, spec), spec)
    nearest = losses(weight, round_nearest(weight, spec), spec)
    assert bool((fitted <= nearest * (1 + 1e-5)).all())
    assert float(fitted.sum()) < 0.97 * float(nearest.sum())


def test_twice_the_weights_give_twice_the_scales() -> None:
    spec, weight = BlockSpec(4, 32), drawn(8, 64)
    codes, scale, zero = round_hqq(weight, spec)
    codes2, scale2, zero2 = round_hqq(weight * 2, spec)
    assert torch.equal(codes, codes2)
    torch.testing.assert_close(zero, zero2, rtol=0, atol=0)
    torch.testing.assert_close(scale2, scale * 2, rtol=1e-6, atol=0)


def test_a_block_does_not_depend_on_what_stands_beside_it() -> None:
    spec, weight = BlockSpec(4, 16), drawn(40, 48)
    whole = round_hqq(weight, spec)
    part = round_hqq(weight[7:9, 16:32].clone(), spec)
    assert torch.equal(part[0], whole[0][7:9, 16:32])
    assert torch.equal(part[1], whole[1][7:9, 1:2])


def test_weights_of_zero_and_of_one_value() -> None:
    spec = BlockSpec(4, 16)
    for weight in (torch.zeros(2, 32), torch.full((2, 32), 0.3), torch.full((2, 32), -0.3)):
        rounded = round_hqq(weight, spec)
        assert bool((rounded[1] > 0).all())
        torch.testing.assert_close(dequantize_rounded(rounded, spec), weight)


def test_symmetric_grids_are_refused() -> None:
    with pytest.raises(InvalidInput, match="hqq fits zero points"):
        round_hqq(drawn(2, 32), BlockSpec(4, 32, symmetric=True))

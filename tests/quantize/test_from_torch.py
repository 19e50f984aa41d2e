"""Against torch.quantize_per_tensor and per_channel: equal but for ties of the reciprocal product.

torch rounds x * (1 / scale), two roundings of 2^-24 more than the quotient. So where its integer is
another than ours, the quotient lies that near to half an integer, and the two are neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch

from burnish.quantize import QSpec, QTensor, quantize_tensor
from burnish.quantize._tensors.format import format_name

pytestmark = pytest.mark.filterwarnings("ignore:torch.quantize_per_:UserWarning")

DTYPES = (torch.quint8, torch.qint8, torch.qint32)
NEAR = 2.0**-22  # relative to the quotient: the roundings of both, and of what is compared


def _samples(shape: tuple[int, ...]) -> Iterator[tuple[torch.Tensor, float, int]]:
    """Values with a scale and a zero point: half of them anywhere, half on ties."""
    torch.manual_seed(0)
    for turn in range(40):
        scale = float(10 ** torch.empty(()).uniform_(-4, 1))
        x = torch.randn(shape) * scale * 50
        if turn % 2:
            x = ((torch.randint(-250, 250, shape) + 0.5) * scale).float()
        yield x, scale, int(torch.randint(0, 120, ()))


def _check(ours: torch.Tensor, theirs: torch.Tensor, quotient: torch.Tensor) -> int:
    """How many differ, each by one step and at a tie."""
    step = (ours.long() - theirs.long()).abs()
    assert int(step.max()) <= 1
    at = quotient[step != 0]
    from_tie = ((at - at.floor()) - 0.5).abs()
    assert bool((from_tie <= NEAR * at.abs()).all())
    return int((step != 0).sum())


@pytest.mark.parametrize("dtype", DTYPES)
def test_per_tensor_differs_at_ties_only(dtype: torch.dtype) -> None:
    found = 0
    for x, scale, zero in _samples((50, 101)):
        theirs = torch.quantize_per_tensor(x, scale, zero, dtype)
        ours = quantize_tensor(x, scale, zero, dtype)
        quotient = x.double() / torch.tensor(scale).double()
        found += _check(ours.int_repr(), theirs.int_repr(), quotient)
    assert found > 1000  # it is not for want of ties


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_per_channel_differs_at_ties_only(dtype: torch.dtype, axis: int) -> None:
    found = 0
    for x, scale, _ in _samples((4, 6, 50)):
        count = x.shape[axis]
        scales = torch.rand(count) * scale + scale
        zeros = torch.randint(0, 100, (count,))
        shape = [-1 if a == axis % 3 else 1 for a in range(3)]
        x = (x / scale).round() * scales.reshape(shape) / 2
        theirs = torch.quantize_per_channel(x, scales, zeros, axis % 3, dtype)
        ours = quantize_tensor(x, scales, zeros, dtype, axis)
        quotient = x.double() / scales.double().reshape(shape)
        found += _check(ours.int_repr(), theirs.int_repr(), quotient)
    assert found > 100


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_integers_dequantize_to_the_same_floats(dtype: torch.dtype) -> None:
    spec = QSpec(format_name(dtype), symmetric=False)
    for x, scale, zero in _samples((50, 101)):
        theirs = torch.quantize_per_tensor(x, scale, zero, dtype)
        ours = QTensor.from_int_repr(theirs.int_repr(), scale, zero, spec)
        assert torch.equal(ours.dequantize(), theirs.dequantize())


def test_what_the_page_says_of_nan_and_of_qint32() -> None:
    nan = torch.tensor([math.nan])
    for dtype, theirs, ours in ((torch.quint8, 255, 0), (torch.qint8, 127, -128)):
        assert torch.quantize_per_tensor(nan, 0.5, 10, dtype).int_repr().item() == theirs
        assert quantize_tensor(nan, 0.5, 10, dtype).int_repr().item() == ours
    least = torch.tensor([-8e8])
    assert torch.quantize_per_tensor(least, 0.37, 5, torch.qint32).dequantize().item() == 794568960
    assert quantize_tensor(least, 0.37, 5, torch.qint32).dequantize().item() == -794568960

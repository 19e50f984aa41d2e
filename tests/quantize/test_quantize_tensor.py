"""Quantizing and dequantizing: edges by value, refusals, agreement with the graph's operators."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from burnish.errors import InvalidInput
from burnish.graph import DEQUANTIZE, PER_TENSOR, QUANTIZE
from burnish.quantize import QSpec, QTensor, quantize_tensor
from burnish.quantize._tensors.format import FORMATS

INTEGERS = tuple(name for name, form in FORMATS.items() if form.is_integer)
LEAST = math.ldexp(1.0, -149)


def ints(x: list[float], scale: float, zero: int, dtype: str) -> list[int]:
    """The integers a list becomes."""
    return quantize_tensor(torch.tensor(x), scale, zero, dtype).int_repr().tolist()


def test_ties_go_to_the_even_integer_before_the_zero_point_is_added() -> None:
    x = [0.5, 1.5, 2.5, -0.5, -1.5, -2.5]
    assert ints(x, 1.0, 0, "int8") == [0, 2, 2, 0, -2, -2]
    assert ints(x, 1.0, 1, "int8") == [1, 3, 3, 1, -1, -1]


def test_the_quotient_is_divided_not_multiplied_by_a_reciprocal() -> None:
    assert ints([45.5], 7.0, 0, "int8") == [6]
    assert round(float(torch.tensor(45.5) * torch.tensor(1 / 7.0))) == 7


@pytest.mark.parametrize("dtype", INTEGERS)
def test_what_is_beyond_an_integer_format_becomes_its_end(dtype: str) -> None:
    form = FORMATS[dtype]
    inf = math.inf
    zero = int(form.low) + 1
    x = [3e38, inf, 3e9, -3e38, -inf, -1e10, math.nan]
    ends = [form.high] * 3 + [form.low] * 4
    assert ints(x, 0.5, zero, dtype) == ends


def test_int32_saturates_at_its_own_ends_only() -> None:
    just = 2.0**31 - 128  # the largest float32 below 2^31
    assert ints([just, 2.0**31, -(2.0**31)], 1.0, 0, "int32") == [2**31 - 128, 2**31 - 1, -(2**31)]
    assert ints([just, just], 1.0, 100, "int32") == [2**31 - 28] * 2
    q = QTensor.from_int_repr(
        torch.tensor([-(2**31)]), 0.5, 2**31 - 1, QSpec("int32", symmetric=False)
    )
    assert q.dequantize().tolist() == [-(2.0**31)]  # a difference of 33 bits


@pytest.mark.parametrize("dtype", INTEGERS)
def test_every_integer_of_a_format_comes_back(dtype: str) -> None:
    form = FORMATS[dtype]
    step = 1 if form.bits <= 16 else 65_537
    values = torch.arange(int(form.low), int(form.high) + 1, step)
    q = QTensor.from_int_repr(values, 0.25, 0, QSpec(dtype, symmetric=False))
    assert torch.equal(q.int_repr().long(), values)
    if form.bits <= 16:
        again = quantize_tensor(q.dequantize(), 0.25, 0, QSpec(dtype, symmetric=False))
        assert torch.equal(again.int_repr().long(), values)
        assert torch.equal(again.storage, q.storage)


def test_denormals_are_numbers() -> None:
    x = torch.tensor([LEAST, 3 * LEAST, -2 * LEAST])
    q = quantize_tensor(x, torch.tensor(LEAST), None, "int8")
    assert q.int_repr().tolist() == [1, 3, -2]
    assert torch.equal(q.dequantize(), x)
    assert ints([1e-42, 1.0], 1.0, 0, "int8") == [0, 1]


@pytest.mark.parametrize("dtype", sorted(FORMATS))
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), ()])
def test_empty_and_scalar_tensors(dtype: str, shape: tuple[int, ...]) -> None:
    x = torch.ones(shape)
    q = quantize_tensor(x, 1.0, None, dtype)
    assert q.shape == tuple(q.int_repr().shape) == shape
    assert torch.equal(q.dequantize(), x)


def test_float_formats_scale_and_round() -> None:
    x = torch.tensor([0.0, 0.3, -2.9, 100.0, math.inf, -math.inf])
    four = quantize_tensor(x, 0.5, None, "float4_e2m1")
    assert four.dequantize().tolist() == [0.0, 0.25, -3.0, 3.0, 3.0, -3.0]
    assert four.storage.tolist() == [0x10, 0x7F, 0xF7]
    half = quantize_tensor(x, 1e-4, None, "float16")
    assert half.dequantize().isinf().tolist() == [False, False, False, True, True, True]
    assert half.storage.dtype == torch.float16
    assert half.zero_point is None
    assert half.int_repr().dtype == torch.int16


def test_nan_to_a_float_format() -> None:
    x = torch.tensor([math.nan, -math.nan])
    for dtype in ("float8_e4m3fn", "float8_e5m2fnuz", "bfloat16", "float16"):
        assert quantize_tensor(x, 1.0, None, dtype).dequantize().isnan().all()
    assert quantize_tensor(x, 1.0, None, "float4_e2m1").dequantize().tolist() == [6.0, 6.0]


def test_the_division_takes_the_precision_of_the_scale_or_the_one_named() -> None:
    x = torch.tensor([2049.0])  # between two numbers of float16
    one = torch.tensor(1.0, dtype=torch.float16)
    assert quantize_tensor(x, one, None, "int16").int_repr().item() == 2048
    spec = QSpec("int16", precision="float32")
    assert quantize_tensor(x, one, None, spec).int_repr().item() == 2049
    assert quantize_tensor(x, one.float(), None, "int16").int_repr().item() == 2049


def test_the_result_takes_the_dtype_of_the_scale_or_the_one_named() -> None:
    x = torch.tensor([1.0, 2.0], dtype=torch.bfloat16)
    q = quantize_tensor(x, torch.tensor(0.5, dtype=torch.bfloat16), None, "int8")
    assert q.dequantize().dtype == torch.bfloat16
    assert q.dequantize(torch.float32).tolist() == [1.0, 2.0]
    with pytest.raises(InvalidInput, match=r"dtype=torch\.float64"):
        q.dequantize(torch.float64)


def test_a_large_integer_does_not_overflow_float16_on_its_way() -> None:
    q = quantize_tensor(torch.tensor([6.5]), torch.tensor(1e-4), 0, "uint16")
    assert q.dequantize(torch.float16).tolist() == [6.5]


def test_bytes_are_counted_as_they_are_stored() -> None:
    x = torch.zeros(3, 64)
    spec = QSpec("uint4", "block", axis=1, block_size=32, symmetric=False)
    scale = torch.ones(3, 2, dtype=torch.float16)
    q = quantize_tensor(x, scale, torch.full((3, 2), 7), spec)
    assert q.storage.numel() == 96
    assert q.nbytes == 96 + 12 + 3
    assert quantize_tensor(x, 1.0, None, "int8").nbytes == 192 + 4 + 1
    assert quantize_tensor(x, 1.0, None, "float8_e5m2").nbytes == 192 + 4


def test_the_tensor_is_cut_off_from_what_it_was_made_of() -> None:
    x = torch.ones(3, dtype=torch.bfloat16, requires_grad=True)
    scale = torch.tensor(1.0, requires_grad=True)
    q = quantize_tensor(x, scale, None, "bfloat16")
    with torch.no_grad():
        x.mul_(5)
        scale.mul_(5)
    assert q.dequantize().tolist() == [1.0, 1.0, 1.0]
    assert not q.dequantize().requires_grad


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
@pytest.mark.parametrize("axis", [PER_TENSOR, 0, 1])
def test_the_operators_of_the_graph_give_the_same(dtype: torch.dtype, axis: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 5, 6) * 30
    x[0, 0, :4] = torch.tensor([math.inf, -math.inf, 1e30, 2.5])
    count = 1 if axis == PER_TENSOR else x.shape[axis]
    shape = () if axis == PER_TENSOR else (count,)
    scale = torch.rand(shape) + 0.01
    zero = torch.randint(0, 100, shape).to(dtype)
    q = quantize_tensor(x, scale, zero, dtype, None if axis == PER_TENSOR else axis)
    integers = QUANTIZE(x, scale, zero, axis)
    assert torch.equal(q.int_repr(), integers)
    assert torch.equal(q.dequantize(), DEQUANTIZE(integers, scale, zero, axis))


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (0.0, r"the scale is 0\.0: a scale is positive"),
        (-1.0, r"the scale is -1\.0"),
        (math.nan, "the scale is nan"),
        (math.inf, "the scale is inf"),
        (torch.tensor([1.0, 0.0, 0.0]), r"the scale at \[1\] of \[3\] is 0\.0.*2 of 3 are not"),
        (
            torch.tensor([1.0, 1.0]),
            r"shape \[3, 4\] .* axis 0 has a scale of shape \[3\], not \[2\]",
        ),
        (torch.ones(3, dtype=torch.float64), "the scale is torch.float64"),
        (torch.ones(3, dtype=torch.int32), "the scale is torch.int32"),
    ],
)
def test_scales_that_cannot_be_are_refused(scale: Any, message: str) -> None:
    axis = 0 if isinstance(scale, torch.Tensor) else None
    with pytest.raises(InvalidInput, match=message):
        quantize_tensor(torch.ones(3, 4), scale, None, "int8", axis)


def test_a_scale_that_vanishes_in_the_division_s_precision_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"is 0\.0 in the division's precision, torch.float16"):
        quantize_tensor(torch.ones(3), 1e-9, None, QSpec("int8", precision="float16"))


@pytest.mark.parametrize(
    ("zero", "spec", "message"),
    [
        (256, "uint8", "zero points from 256 to 256: uint8 holds 0 to 255"),
        (-9, "int4", "int4 holds -8 to 7"),
        (1.0, "int8", "the zero point is torch.float32: int8 wants integers"),
        (3, QSpec("int8"), "symmetric=True\\) has the zero point 0"),
        (0, QSpec("uint8"), "symmetric=True\\) has the zero point 128"),
        (1, "float8_e4m3fn", "float8_e4m3fn is a float format: it has no zero point"),
        (torch.zeros(2, dtype=torch.int8), "int8", r"has a zero point of shape \[\], not \[2\]"),
    ],
)
def test_zero_points_that_cannot_be_are_refused(zero: Any, spec: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        quantize_tensor(torch.ones(3), 1.0, zero, spec)


def test_calls_that_cannot_be_understood_are_refused() -> None:
    x = torch.ones(3, 4)
    with pytest.raises(InvalidInput, match=r"x is torch.float64: one of"):
        quantize_tensor(x.double(), 1.0, None, "int8")
    with pytest.raises(InvalidInput, match="3 scales and no axis"):
        quantize_tensor(x, torch.ones(3), None, torch.qint8)
    with pytest.raises(InvalidInput, match="axis=0 beside a QSpec"):
        quantize_tensor(x, 1.0, None, QSpec(), axis=0)
    with pytest.raises(InvalidInput, match=r"a scale of shape \[3, 2\], not \[3\]"):
        quantize_tensor(x, torch.ones(3), None, QSpec("int8", "block", axis=1, block_size=3))
    with pytest.raises(InvalidInput, match="values from 0 to 16 do not fit uint4"):
        QTensor.from_int_repr(torch.tensor([0, 16]), 1.0, 0, QSpec("uint4", symmetric=False))
    with pytest.raises(InvalidInput, match="integers are wanted"):
        QTensor.from_int_repr(torch.ones(2), 1.0, None, QSpec())

"""Scales chosen from values: nothing saturates, zero is exact, and the edges."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from burnish.errors import InvalidInput
from burnish.quantize import QSpec, choose_scale, quantize_tensor, quantize_tensor_dynamic
from burnish.quantize._tensors.format import FORMATS
from burnish.quantize._tensors.spec import Granularity

UINT8 = QSpec("uint8", symmetric=False)
LEAST = math.ldexp(1.0, -149)


@st.composite
def specs(draw: st.DrawFn) -> QSpec:
    """Any spec for a tensor of three axes."""
    dtype = draw(st.sampled_from(sorted(FORMATS)))
    symmetric = not FORMATS[dtype].is_integer or draw(st.booleans())
    granularity: Granularity = draw(st.sampled_from(["tensor", "channel", "block"]))
    size = draw(st.integers(1, 7)) if granularity == "block" else None
    return QSpec(dtype, granularity, draw(st.integers(-3, 2)), size, symmetric)


def _groups(x: torch.Tensor, spec: QSpec) -> list[tuple[tuple[int, ...], torch.Tensor]]:
    """Each index of the scale with the values that share it, found one by one."""
    shape = tuple(x.shape)
    found: dict[tuple[int, ...], list[torch.Tensor]] = {}
    for index in torch.cartesian_prod(*(torch.arange(n) for n in shape)).tolist():
        key: tuple[int, ...] = ()
        if spec.granularity == "channel":
            key = (index[spec.axis],)
        elif spec.block_size is not None:
            axis = spec.axis % 3
            key = (*index[:axis], index[axis] // spec.block_size, *index[axis + 1 :])
        found.setdefault(key, []).append(x[tuple(index)])
    return [(key, torch.stack(values)) for key, values in found.items()]


@given(spec=specs(), seed=st.integers(0, 99), shift=st.sampled_from([0.0, 3.0, -3.0]))
def test_every_value_is_within_a_step_of_its_group_s_scale(
    spec: QSpec, seed: int, shift: float
) -> None:
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(seed)) + shift
    scale, zero = choose_scale(x, spec)
    assert tuple(scale.shape) == spec.scale_shape((3, 4, 5))
    assert (zero is None) == (not spec.format.is_integer)
    q = quantize_tensor(x, scale, zero, spec)
    error = (q.dequantize() - x).abs()
    if not spec.format.is_integer:
        # Half of the widest gap between neighbours, which are those at the top.
        assert bool((error <= x.abs() / 4 + spec.spread(scale, (3, 4, 5)) / 4).all())
        return
    assert bool((error <= 0.5001 * spec.spread(scale, (3, 4, 5)) + 1e-6 * x.abs()).all())
    for key, values in _groups(x, spec):
        low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
        extent = max(-low, high) if spec.symmetric else high - low
        steps = spec.format.reach if spec.symmetric else spec.format.levels
        assert float(scale[key]) == pytest.approx(extent / steps, rel=1e-6)


@given(specs())
def test_zero_stays_zero(spec: QSpec) -> None:
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1))
    x[:, ::2] = 0.0
    back = quantize_tensor_dynamic(x, spec).dequantize()
    assert bool((back[:, ::2] == 0).all())


@given(specs())
def test_all_zero_and_empty_tensors_have_the_scale_of_a_range_of_one(spec: QSpec) -> None:
    form = spec.format
    for shape in [(2, 3, 4), (2, 0, 4), (0, 1, 1)]:
        scale, zero = choose_scale(torch.zeros(shape), spec)
        if form.is_integer:
            wanted = 1 / (form.reach if spec.symmetric else form.levels)
        else:
            wanted = 1.0 if form.bits == 16 else 1 / form.high
        assert torch.allclose(scale, torch.full_like(scale, wanted))
        assert tuple(scale.shape) == spec.scale_shape(shape)
        q = quantize_tensor(torch.zeros(shape), scale, zero, spec)
        assert torch.equal(q.dequantize(), torch.zeros(shape))


def test_a_channel_of_zeros_does_not_disturb_the_others() -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, -2.0]])
    q = quantize_tensor_dynamic(x, QSpec("int8", "channel", axis=0))
    assert q.scale.tolist() == pytest.approx([1 / 127, 2 / 127])
    assert q.dequantize()[0].tolist() == [0.0, 0.0]


def test_symmetric_int8_never_uses_the_least_integer() -> None:
    q = quantize_tensor_dynamic(torch.tensor([-3.0, 1.0, 3.0]), QSpec("int8"))
    assert q.int_repr().tolist() == [-127, 42, 127]
    unsigned = quantize_tensor_dynamic(torch.tensor([-3.0, 1.0, 3.0]), QSpec("uint8"))
    assert unsigned.int_repr().tolist() == [1, 170, 255]


def test_a_range_of_denormals_loses_nothing() -> None:
    x = torch.tensor([0.0, LEAST, -3 * LEAST, 7 * LEAST])
    for spec in (QSpec("int8"), UINT8):
        q = quantize_tensor_dynamic(x, spec)
        assert float(q.scale) == LEAST
        assert torch.equal(q.dequantize(), x)


def test_float16_gets_a_power_of_two_only_where_it_would_overflow() -> None:
    spec = QSpec("float16")
    assert float(choose_scale(torch.tensor([65504.0]), spec)[0]) == 1.0
    x = torch.tensor([2.0**20, -3.0, 0.25])
    q = quantize_tensor_dynamic(x, spec)
    assert float(q.scale) == 32.0
    assert torch.equal(q.dequantize(), x)
    assert float(choose_scale(torch.tensor([3e38]), QSpec("bfloat16"))[0]) == 1.0


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "block"])
def test_infinities_and_nan_have_no_range(bad: float, granularity: Granularity) -> None:
    x = torch.ones(3, 4)
    x[1, 2] = bad
    size = 2 if granularity == "block" else None
    with pytest.raises(InvalidInput, match="1 of 12 values are infinite or NaN"):
        choose_scale(x, QSpec("int8", granularity, block_size=size))


def test_a_range_wider_than_float32_is_refused_where_it_is_needed() -> None:
    x = torch.tensor([-3e38, 3e38])
    with pytest.raises(InvalidInput, match="wider than float32 holds"):
        choose_scale(x, UINT8)
    assert quantize_tensor_dynamic(x, QSpec("int8")).int_repr().tolist() == [-127, 127]


def test_other_dtypes_of_x() -> None:
    wide = torch.tensor([-1.5, 2.5])
    for dtype in (torch.float16, torch.bfloat16):
        scale, zero = choose_scale(wide.to(dtype), UINT8)
        assert (scale, zero) == choose_scale(wide, UINT8)
        assert scale.dtype == torch.float32
    assert float(choose_scale(torch.tensor([254], dtype=torch.int32), QSpec())[0]) == 2.0
    with pytest.raises(InvalidInput, match=r"x is torch\.float64"):
        choose_scale(wide.double(), UINT8)

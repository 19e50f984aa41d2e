"""Fake quantizers: the numbers of the real ones, LSQ's gradients restated, ranges that collapse."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from burnish.errors import InvalidInput
from burnish.graph import (
    DEQUANTIZE,
    FAKE_BIAS,
    FAKE_QUANTIZE,
    LEARNED_SCALE,
    OBSERVED_SCALE,
    PER_TENSOR,
    QUANTIZE,
    set_progress,
    trace,
)

NAME = "0:conv2d"


def _scalar(value: float) -> torch.Tensor:
    return torch.tensor(float(value))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), zero=st.sampled_from([0, 1, 128, 200, 255]))
def test_gives_what_quantizing_and_dequantizing_gives(seed: int, zero: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = 8 * torch.randn(3, 4, 5, generator=generator)
    x[0, 0, :3] = torch.tensor([float("inf"), -float("inf"), 1e30])
    scale = torch.rand((), generator=generator) * 0.1 + 1e-3
    integers = QUANTIZE(x, scale, torch.tensor(zero, dtype=torch.uint8), PER_TENSOR)
    real = DEQUANTIZE(integers, scale, torch.tensor(zero, dtype=torch.uint8), PER_TENSOR)
    assert torch.equal(FAKE_QUANTIZE(x, scale, _scalar(zero), 0, 255, PER_TENSOR), real)


@pytest.mark.parametrize("axis", [0, 1])
def test_gives_it_for_each_channel(axis: int) -> None:
    weight = torch.randn(4, 4, 3, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor([0.001, 0.01, 0.1, 1.0])
    zero = torch.zeros(4, dtype=torch.int8)
    integers = QUANTIZE(weight, scale, zero, axis).clamp(-127, 127)
    fake = FAKE_QUANTIZE(weight, scale, None, -127, 127, axis)
    assert torch.equal(fake, DEQUANTIZE(integers, scale, zero, axis))


def test_bfloat16_is_computed_in_float32() -> None:
    x = torch.linspace(0, 255, 256).bfloat16()
    assert torch.equal(FAKE_QUANTIZE(x, _scalar(1), _scalar(0), 0, 255, PER_TENSOR), x)


def _lsq(
    x: np.ndarray, grad: np.ndarray, scale: float, low: int, high: int, num: int
) -> tuple[np.ndarray, float]:
    """The paper's formulas, one element at a time, in float64; inside is what rounds inside."""
    to_x, to_scale = np.zeros_like(x), 0.0
    for index in itertools.product(*map(range, x.shape)):
        step = x[index] / scale
        if np.rint(step) < low:
            to_scale += low * grad[index]
        elif np.rint(step) > high:
            to_scale += high * grad[index]
        else:
            to_scale += (np.rint(step) - step) * grad[index]
            to_x[index] = grad[index]
    return to_x, to_scale / np.sqrt(num * max(high, -low))


@pytest.mark.parametrize("zero", [0, 37, 128])
def test_the_gradients_of_an_activation_are_those_of_lsq(zero: int) -> None:
    generator = torch.Generator().manual_seed(zero)
    x = (3 * torch.randn(4, 3, 2, generator=generator)).requires_grad_()
    grad = torch.randn(4, 3, 2, generator=generator)
    scale = _scalar(0.02).requires_grad_()
    FAKE_QUANTIZE(x, scale, _scalar(zero), 0, 255, PER_TENSOR).backward(grad)
    real = x.detach().double().numpy()
    wanted = _lsq(real, grad.double().numpy(), 0.02, -zero, 255 - zero, 6)
    assert x.grad is not None
    assert scale.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), wanted[0])
    np.testing.assert_allclose(float(scale.grad), wanted[1], rtol=1e-4)
    assert 0 < int((x.grad == 0).sum()) < x.numel(), "some of it saturates, some does not"


def test_the_gradients_of_a_weight_are_those_of_lsq_channel_by_channel() -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(5, 3, 2, generator=generator).requires_grad_()
    grad = torch.randn(5, 3, 2, generator=generator)
    scale = torch.tensor([0.1, 0.2, 0.3, 0.05, 1.0], requires_grad=True)
    FAKE_QUANTIZE(weight, scale, None, -7, 7, 0).backward(grad)
    assert weight.grad is not None
    assert scale.grad is not None
    for channel in range(5):
        to_weight, to_scale = _lsq(
            weight[channel].detach().double().numpy(),
            grad[channel].double().numpy(),
            float(scale[channel].detach()),
            -7,
            7,
            6,
        )
        np.testing.assert_array_equal(weight.grad[channel].numpy(), to_weight)
        np.testing.assert_allclose(float(scale.grad[channel]), to_scale, rtol=1e-4, atol=1e-6)


def test_the_largest_weight_does_not_count_as_saturated() -> None:
    """Its scale was chosen so that it just fits: amax / 127, rounded."""
    for seed in range(50):
        weight = torch.randn(40, generator=torch.Generator().manual_seed(seed)).requires_grad_()
        scale = weight.detach().abs().max() / 127
        FAKE_QUANTIZE(weight, scale, None, -127, 127, PER_TENSOR).sum().backward()
        assert weight.grad is not None
        assert bool((weight.grad == 1).all())


def _learned(ratio: torch.Tensor, unit: torch.Tensor, progress: float = 0.0) -> torch.Tensor:
    found: torch.Tensor = LEARNED_SCALE(ratio, unit, _scalar(progress), 0.8, NAME, True)
    return found


def test_a_step_on_the_ratio_is_lsqs_step_on_the_scale() -> None:
    generator = torch.Generator().manual_seed(5)
    x, grad = (torch.randn(3, 8, generator=generator) for _ in range(2))
    unit, rate = _scalar(0.02), 1e-3
    scale, ratio = unit.clone().requires_grad_(), torch.ones((), requires_grad=True)
    FAKE_QUANTIZE(x, scale, _scalar(99), 0, 255, PER_TENSOR).backward(grad)
    FAKE_QUANTIZE(x, _learned(ratio, unit), _scalar(99), 0, 255, PER_TENSOR).backward(grad)
    assert scale.grad is not None
    assert ratio.grad is not None
    stepped = (scale - rate * scale.grad).detach()
    torch.testing.assert_close(((ratio - rate * ratio.grad) * unit).detach(), stepped)


def test_a_small_channel_moves_by_as_much_less_as_it_is_smaller() -> None:
    ratio, unit = torch.ones(2, requires_grad=True), torch.tensor([1e-8, 0.5])
    _learned(ratio, unit).backward(torch.ones(2))
    assert ratio.grad is not None
    torch.testing.assert_close(ratio.grad, torch.tensor([2.0, 2.0]))


def test_a_learned_scale_freezes() -> None:
    """It gets no gradient at all: zeros would let an optimizer's momentum move it."""
    ratio, unit = torch.ones(2, requires_grad=True), torch.ones(2)
    x = torch.randn(2, 3, requires_grad=True)
    for progress, frozen in ((0.79, False), (0.8, True), (1.0, True)):
        ratio.grad = None
        FAKE_QUANTIZE(x, _learned(ratio, unit, progress), None, -127, 127, 0).sum().backward()
        assert (ratio.grad is None) == frozen


def test_a_learned_scale_stays_positive_and_slows_down_as_it_shrinks() -> None:
    """Below the first scale its logarithm is what is learned; from there up, the scale itself."""
    ratio = torch.tensor([-3.0, -0.1, 0.999999, 1.0, 1.5], dtype=torch.float64, requires_grad=True)
    scale = _learned(ratio, torch.ones(5, dtype=torch.float64))
    expected = [np.exp(-4.0), np.exp(-1.1), 1.0, 1.0, 1.5]
    np.testing.assert_allclose(scale.detach().numpy(), expected, atol=2e-6)
    scale.sum().backward()
    assert ratio.grad is not None
    np.testing.assert_allclose(ratio.grad.numpy(), [*expected[:4], 1.0], atol=2e-6)


@pytest.mark.parametrize("broken", [-6.0, 1e4, float("nan"), float("inf"), -float("inf")])
def test_a_collapsed_learned_scale_is_refused_by_name(broken: float) -> None:
    with pytest.raises(InvalidInput, match=r"'0:conv2d' collapsed .* Lower the learning rate"):
        _learned(torch.tensor([1.0, broken]), torch.ones(2))


def _observed(
    x: torch.Tensor,
    seen: torch.Tensor,
    *,
    progress: float = 0.0,
    member: int = 0,
    symmetric: bool = False,
    first: float = 0.01,
    training: bool = True,
) -> tuple[float, float]:
    settings = (_scalar(progress), member, symmetric, first, 0.8, NAME, training)
    scale, zero = OBSERVED_SCALE(x, seen, *settings)
    return float(scale), float(zero)


def _seen(*rows: tuple[float, float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_an_observed_range_is_a_moving_average_of_the_extremes() -> None:
    seen, low, high = _seen((0.0, 2.55)), 0.0, 2.55
    for step in range(20):
        x = torch.randn(50, generator=torch.Generator().manual_seed(step))
        low += 0.01 * (float(x.min()) - low)
        high += 0.01 * (float(x.max()) - high)
        scale, zero = _observed(x, seen)
        np.testing.assert_allclose(scale, (high - low) / 255, rtol=1e-6)
        assert zero == round(-low / ((high - low) / 255))


def test_an_observed_symmetric_range_keeps_its_zero_point() -> None:
    seen = _seen((-1.27, 1.27))
    scale, zero = _observed(torch.tensor([-3.0, 1.0]), seen, symmetric=True)
    assert zero == 128
    np.testing.assert_allclose(scale, (1.27 + 0.01 * (3 - 1.27)) / 127, rtol=1e-6)


def test_tensors_that_share_a_scale_share_the_union_of_their_ranges() -> None:
    seen = _seen((0.0, 1.0), (0.0, 4.0))
    for member in (0, 1):
        scale, _ = _observed(torch.ones(3), seen, member=member, training=False)
        np.testing.assert_allclose(scale, 4 / 255, rtol=1e-6)
    _observed(torch.full((3,), 2.0), seen, member=0)
    torch.testing.assert_close(seen, _seen((0.02, 1.01), (0.0, 4.0)))


@pytest.mark.parametrize(("progress", "training"), [(0.8, True), (0.0, False)])
def test_an_observed_range_stands_still(progress: float, training: bool) -> None:
    seen = _seen((0.0, 2.55))
    before = seen.clone()
    scale, _ = _observed(torch.randn(50), seen, progress=progress, training=training)
    assert torch.equal(seen, before)
    np.testing.assert_allclose(scale, 0.01, rtol=1e-6)


@pytest.mark.parametrize("end", [0.0, 1e-4, 1e5, float("nan")])
def test_a_collapsed_observed_range_is_refused_by_name(end: float) -> None:
    with pytest.raises(InvalidInput, match="'0:conv2d' collapsed"):
        _observed(torch.ones(3), _seen((0.0, end)), training=False)


def test_a_bias_lies_on_the_accumulators_grid_and_learns() -> None:
    bias = torch.tensor([0.1, -0.2, 1e9], requires_grad=True)
    scale, step = torch.tensor([0.01, 0.02, 0.03]), _scalar(0.5)
    fake = FAKE_BIAS(bias, scale, step)
    fake.sum().backward()
    assert bias.grad is not None
    assert bool((bias.grad == 1).all())
    grid = scale.double() * 0.5
    steps = (bias.detach().double() / grid).round().clamp(-(2**31) + 1, 2**31 - 1)
    torch.testing.assert_close(fake.detach().double(), steps * grid)


def test_progress_is_told_to_graphs_that_ask_for_it_alone() -> None:
    plain = trace(nn.Linear(2, 2), (torch.zeros(2, 2),))
    set_progress(plain, 0.5)
    set_progress(nn.Linear(2, 2), 0.5)
    plain.graph_module.register_buffer("burnish_progress", torch.zeros(()))
    set_progress(plain, 0.5)
    assert float(plain.graph_module.get_buffer("burnish_progress")) == 0.5

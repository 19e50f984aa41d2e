"""Weights, biases and their correction, against float64 and against ONNX's own definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from burnish.quantize._static.bias import bias_shift
from burnish.quantize._tensors.weights import (
    INT32,
    along,
    round_bias,
    round_weight,
    weight_scales,
)

SHAPES = [((8, 3, 3, 3), 0), ((8, 1, 5), 0), ((6, 9), 0), ((4, 8, 3, 3), 1), ((4, 8, 2), None)]


def weights(shape: tuple[int, ...]) -> torch.Tensor:
    """Channels of very different sizes, one of them all zero, values exactly between two steps."""
    spread = torch.logspace(-4, 3, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * spread
    weight[1] = 0.0
    return weight


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_rounding_is_half_a_step_at_most(shape, axis) -> None:
    weight = weights(shape)
    scale = weight_scales(weight, axis, None, 1.0)
    integers = round_weight(weight, scale, axis)
    back = integers.double() * along(scale, weight, axis).double()
    steps = (back - weight.double()).abs() / along(scale, weight, axis).double()
    assert integers.dtype == torch.int8
    assert int(integers.min()) >= -127
    assert float(steps.max()) <= 0.5 + 1e-4


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_the_largest_of_a_channel_is_127(shape, axis) -> None:
    weight = weights(shape)
    integers = round_weight(weight, weight_scales(weight, axis, None, 1.0), axis).int().abs()
    others = [a for a in range(len(shape)) if a != axis]
    largest = integers.amax(others) if axis is not None else integers.amax()
    zero = weight.abs().amax(others) == 0 if axis is not None else torch.tensor(False)
    assert torch.equal(largest == 127, ~zero)


def quantize_linear(x: np.ndarray, scale: np.ndarray, axis: int) -> np.ndarray:
    """ONNX's reference implementation, zero point 0."""
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"], axis=axis)
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape),
        helper.make_tensor_value_info("s", TensorProto.FLOAT, scale.shape),
        helper.make_tensor_value_info("z", TensorProto.INT8, scale.shape),
    ]
    result = helper.make_tensor_value_info("y", TensorProto.INT8, x.shape)
    graph = helper.make_graph([node], "g", ports, [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    zero = np.zeros(scale.shape, np.int8)
    (found,) = ReferenceEvaluator(model).run(None, {"x": x, "s": scale, "z": zero})
    return np.asarray(found)


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_agrees_with_onnx(shape, axis) -> None:
    """The integers that ONNX's QuantizeLinear gives, where it does not use -128."""
    weight = weights(shape)
    scale = weight_scales(weight, axis, None, 1.0)
    wanted = quantize_linear(weight.numpy(), scale.numpy(), axis or 0)
    assert np.array_equal(round_weight(weight, scale, axis).numpy(), np.maximum(wanted, -127))


@given(
    bias=st.floats(-(2.0**40), 2.0**40, width=32),
    largest=st.floats(0, 2.0**20, width=32),
    input_scale=st.floats(1e-12, 1e6),
)
def test_a_bias_always_fits(bias: float, largest: float, input_scale: float) -> None:
    """Widening the weights' scale keeps the bias in 32 bits, and exact to its own precision."""
    weight, offset = torch.full((2, 3), largest), torch.tensor([bias, 0.0])
    scale = weight_scales(weight, 0, offset, input_scale)
    integers = round_bias(offset, input_scale, scale)
    grid = scale.double() * input_scale
    assert int(integers.abs().max()) < INT32
    assert float((integers * grid - offset.double()).abs()[0]) <= float(grid[0]) / 2 * 1.001
    assert float(scale[0]) >= np.float32(largest / 127) * (1 - 1e-6)


def test_ordinary_biases_leave_the_scales_alone() -> None:
    weight, bias = weights((8, 4)), torch.randn(8) / 10
    weight[1] = 1.0
    assert torch.equal(weight_scales(weight, 0, bias, 0.02), weight_scales(weight, 0, None, 0.02))


@pytest.mark.parametrize(
    ("kind", "shape", "groups"),
    [
        ("linear", (5, 6), 1),
        ("conv1d", (4, 6, 1), 1),
        ("conv2d", (4, 6, 1, 1), 1),
        ("conv2d", (6, 1, 1, 1), 6),
        ("conv2d", (4, 3, 1, 1), 2),
        ("conv_transpose2d", (6, 4, 1, 1), 1),
        ("conv_transpose2d", (6, 2, 1, 1), 2),
        ("conv_transpose2d", (6, 1, 1, 1), 6),
    ],
)
def test_the_shift_is_the_mean_error_of_the_rounded_weights(kind, shape, groups) -> None:
    """E[W'x] - E[Wx], computed by running both in float64 over the data itself.

    Kernels of one element: with larger ones, and zeros around the image, it holds away from the
    edges.
    """
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(shape, dtype=torch.float64, generator=generator)
    rounded = (weight * 3).round() / 3
    x = torch.rand(64, 6, *[5] * (len(shape) - 2), dtype=torch.float64, generator=generator)
    x = x + torch.arange(6.0, dtype=torch.float64).reshape(1, 6, *[1] * (len(shape) - 2))
    run = getattr(F, kind)
    extra = {} if kind == "linear" else {"groups": groups}
    error = run(x, rounded, **extra) - run(x, weight, **extra)
    others = [a for a in range(error.dim()) if a != 1]
    mean = x.mean(others)
    np.testing.assert_allclose(
        bias_shift(weight, rounded, mean, kind, groups), error.mean(others), atol=1e-9
    )


def test_the_shift_of_a_larger_kernel_is_the_mean_error_inside() -> None:
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    rounded = (weight * 3).round() / 3
    x = torch.rand(1, 3, 1, 1, dtype=torch.float64).expand(2, 3, 6, 6)
    error = F.conv2d(x, rounded) - F.conv2d(x, weight)
    shift = bias_shift(weight, rounded, x.mean((0, 2, 3)), "conv2d", 1)
    np.testing.assert_allclose(shift, error.mean((0, 2, 3)), atol=1e-9)

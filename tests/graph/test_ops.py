"""Quantize and dequantize against their definition in float64 and against ONNX's reference."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import nn

from burnish.graph import DEQUANTIZE, PER_TENSOR, QUANTIZE, operator, trace

INT8, UINT8 = torch.int8, torch.uint8
ONNX = {
    torch.int8: TensorProto.INT8,
    torch.uint8: TensorProto.UINT8,
    torch.int32: TensorProto.INT32,
}


def _along(vector: np.ndarray, dims: int, axis: int) -> np.ndarray:
    shape = [1] * dims
    if axis != PER_TENSOR:
        shape[axis] = -1
    return vector.reshape(shape)


def _restated_quantize(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, axis: int
) -> np.ndarray:
    """ONNX's text, in float64: x / scale in the input's precision, half to even, saturated."""
    ratio = (x.numpy() / _along(scale.numpy(), x.dim(), axis)).astype(np.float64)
    shifted = np.rint(ratio) + _along(zero_point.numpy().astype(np.float64), x.dim(), axis)
    limits = torch.iinfo(zero_point.dtype)
    codes: np.ndarray = np.clip(shifted, limits.min, limits.max)
    return codes.astype(zero_point.numpy().dtype)


def _restated_dequantize(
    q: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, axis: int
) -> np.ndarray:
    shifted = q.numpy().astype(np.float64) - _along(zero_point.numpy(), q.dim(), axis)
    restated: np.ndarray = shifted * _along(scale.numpy().astype(np.float64), q.dim(), axis)
    return restated


def _reference(
    kind: str, x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, axis: int
) -> np.ndarray:
    types = {"x": ONNX.get(x.dtype, TensorProto.FLOAT), "s": TensorProto.FLOAT}
    types["z"] = ONNX[zero_point.dtype]
    out = types["z"] if kind == "QuantizeLinear" else TensorProto.FLOAT
    node = helper.make_node(kind, ["x", "s", "z"], ["y"], axis=max(axis, 0))
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in types.items()],
        [helper.make_tensor_value_info("y", out, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    feeds = {"x": x.numpy(), "s": scale.numpy(), "z": zero_point.numpy()}
    (result,) = onnx.reference.ReferenceEvaluator(model).run(None, feeds)
    return np.asarray(result)


def _case(dtype: torch.dtype, axis: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 4, 5, generator=generator) * 40
    size = () if axis == PER_TENSOR else (x.shape[axis],)
    scale = torch.rand(size, generator=generator) * 0.5 + 0.05
    limits = torch.iinfo(dtype)
    zero_point = torch.randint(limits.min, limits.max + 1, size, generator=generator).to(dtype)
    # Exact ties and far out values, whatever the scale.
    x[0] = (torch.arange(-10, 10).reshape(4, 5) + 0.5) * (scale if scale.dim() == 0 else 0.25)
    x[1, 0] = torch.tensor([1e6, -1e6, 0.0, -0.0, 1e-30])
    return x, scale, zero_point


@pytest.mark.parametrize("axis", [PER_TENSOR, 0, 1, 2])
@pytest.mark.parametrize("dtype", [INT8, UINT8])
def test_both_against_restatement_and_reference(dtype: torch.dtype, axis: int) -> None:
    x, scale, zero_point = _case(dtype, axis)
    q = QUANTIZE(x, scale, zero_point, axis)
    assert q.dtype == dtype
    assert np.array_equal(q.numpy(), _restated_quantize(x, scale, zero_point, axis))
    assert np.array_equal(q.numpy(), _reference("QuantizeLinear", x, scale, zero_point, axis))
    assert {int(q.min()), int(q.max())} <= {torch.iinfo(dtype).min, torch.iinfo(dtype).max}
    back = DEQUANTIZE(q, scale, zero_point, axis)
    assert back.dtype == torch.float32
    restated = _restated_dequantize(q, scale, zero_point, axis)
    np.testing.assert_allclose(back.numpy(), restated, rtol=2e-7, atol=0)
    reference = _reference("DequantizeLinear", q, scale, zero_point, axis)
    assert np.array_equal(back.numpy(), reference)


@pytest.mark.parametrize("dtype", [INT8, UINT8])
def test_ties_go_to_even_before_the_zero_point(dtype: torch.dtype) -> None:
    x = torch.tensor([0.5, 1.5, 2.5, 3.5, -0.5, -1.5, -2.5])
    q = QUANTIZE(x, torch.tensor(1.0), torch.tensor(7, dtype=dtype), PER_TENSOR)
    assert q.tolist() == [7, 9, 9, 11, 7, 5, 5]


@pytest.mark.parametrize(("dtype", "low", "high"), [(INT8, -128, 127), (UINT8, 0, 255)])
def test_saturation(dtype: torch.dtype, low: int, high: int) -> None:
    x = torch.tensor([-1e30, 1e30, -float("inf"), float("inf")])
    q = QUANTIZE(x, torch.tensor(0.1), torch.tensor(3, dtype=dtype), PER_TENSOR)
    assert q.tolist() == [low, high, low, high]


@given(
    st.lists(st.integers(-128, 127), min_size=1, max_size=8),
    st.floats(0.0009765625, 16.0, width=32),
    st.integers(-128, 127),
)
def test_what_is_on_the_grid_comes_back(codes: list[int], scale: float, zero: int) -> None:
    q = torch.tensor(codes, dtype=INT8)
    s, z = torch.tensor(scale), torch.tensor(zero, dtype=INT8)
    assert torch.equal(QUANTIZE(DEQUANTIZE(q, s, z, PER_TENSOR), s, z, PER_TENSOR), q)


def test_int32_biases_are_dequantized() -> None:
    q = torch.tensor([-70000, 0, 2**30], dtype=torch.int32)
    scale = torch.tensor([1e-4, 2e-4, 3e-9])
    zero_point = torch.zeros(3, dtype=torch.int32)
    back = DEQUANTIZE(q, scale, zero_point, 0)
    assert np.array_equal(back.numpy(), _reference("DequantizeLinear", q, scale, zero_point, 0))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("axis", [PER_TENSOR, 1])
def test_torchs_own_checks_of_an_operator(layout: torch.memory_format, axis: int) -> None:
    x = torch.randn(2, 3, 4, 5).to(memory_format=layout)
    scale = torch.tensor(0.1) if axis < 0 else torch.tensor([0.1, 0.2, 0.3])
    zero_point = torch.zeros_like(scale, dtype=INT8)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(QUANTIZE, (x, scale, zero_point, axis), test_utils=tests)
    q = QUANTIZE(x, scale, zero_point, axis)
    torch.library.opcheck(DEQUANTIZE, (q, scale, zero_point, axis), test_utils=tests)
    assert q.is_contiguous(memory_format=layout)


class Quantized(nn.Module):
    """A linear layer with its input and weight on a grid."""

    scale: torch.Tensor
    zero: torch.Tensor
    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(0.05))
        self.register_buffer("zero", torch.tensor(120, dtype=UINT8))
        self.register_buffer("codes", torch.randint(-128, 128, (3, 4), dtype=INT8))
        self.register_buffer("scales", torch.tensor([0.1, 0.2, 0.3]))
        self.register_buffer("zeros", torch.zeros(3, dtype=INT8))

    def forward(self, x: torch.Tensor) -> Any:
        q = QUANTIZE(x, self.scale, self.zero, PER_TENSOR)
        x = DEQUANTIZE(q, self.scale, self.zero, PER_TENSOR)
        return nn.functional.linear(x, DEQUANTIZE(self.codes, self.scales, self.zeros, 0))


def test_a_graph_that_holds_them_is_traced_copied_and_exported_again() -> None:
    model = Quantized()
    x = torch.randn(4, 4)
    traced = trace(model, (x,))
    kinds = [operator(n) for n in traced.graph_module.graph.nodes if n.op == "call_function"]
    assert kinds == ["quantize", "dequantize", "dequantize", "linear"]
    copied = copy.deepcopy(traced.graph_module)
    again = torch.export.export(
        copied, (x,), dynamic_shapes=(({0: torch.export.Dim("batch")}),), strict=False
    )
    for batch in (1, 7):
        x = torch.randn(batch, 4)
        expected = model(x)
        assert torch.equal(traced(x), expected)
        assert torch.equal(copied(x)[0], expected)
        assert torch.equal(again.module()(x)[0], expected)
    names = {str(node.target) for node in again.graph.nodes if node.op == "call_function"}
    assert {"burnish.quantize.default", "burnish.dequantize.default"} <= names

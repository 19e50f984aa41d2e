"""Every QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear case the onnx package ships."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
import pytest
from onnx.backend.test.case import node as node_cases
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from burnish.quantize import QTensor, quantize_tensor, quantize_tensor_dynamic
from tests.quantize.onnx_side import (
    as_array,
    assert_same,
    attributes_of,
    name_of,
    spec_of,
    stored,
    to_numpy,
    to_torch,
    zeros_of,
)

KINDS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}


def _cases() -> dict[str, Any]:
    for kind in KINDS:
        importlib.import_module(f"{node_cases.__name__}.{kind.lower()}")
    return _among(node_cases._NodeTestCases)


def _among(cases: list[Any]) -> dict[str, Any]:
    return {
        case.name: case
        for case in cases
        if KINDS & {node.op_type for node in case.model.graph.node}
    }


CASES = _cases()


def quantize_linear(
    x: np.ndarray, scale: np.ndarray, zero: np.ndarray | None, attributes: dict[str, Any]
) -> np.ndarray:
    """QuantizeLinear by `quantize_tensor`."""
    dtype = "uint8" if zero is None else name_of(zero)
    if attributes.get("output_dtype"):
        from onnx.helper import tensor_dtype_to_np_dtype

        dtype = name_of(np.empty(0, tensor_dtype_to_np_dtype(attributes["output_dtype"])))
    spec = spec_of(dtype, scale, attributes)
    return stored(quantize_tensor(to_torch(x), to_torch(scale), zeros_of(zero), spec))


def dequantize_linear(
    x: np.ndarray, scale: np.ndarray, zero: np.ndarray | None, attributes: dict[str, Any]
) -> np.ndarray:
    """DequantizeLinear by `QTensor`."""
    spec = spec_of(name_of(x), scale, attributes)
    q = QTensor.from_int_repr(to_torch(x), to_torch(scale), zeros_of(zero), spec)
    return to_numpy(q.dequantize())


def dynamic(x: np.ndarray) -> list[np.ndarray]:
    """DynamicQuantizeLinear by `quantize_tensor_dynamic`."""
    q = quantize_tensor_dynamic(to_torch(x))
    assert q.zero_point is not None
    return [stored(q), q.scale.numpy(), q.zero_point.numpy()]


class QuantizeLinear(OpRun):
    """Ours in the place of the reference's, for cases that are graphs of several nodes."""

    def _run(self, x, scale, zero=None, **attributes):
        return (quantize_linear(x, scale, zero, attributes),)


def _ours(case: Any, inputs: list[np.ndarray]) -> list[np.ndarray]:
    nodes = case.model.graph.node
    if len(nodes) > 1:
        evaluator = ReferenceEvaluator(case.model, new_ops=[QuantizeLinear])
        names = [value.name for value in case.model.graph.input]
        return list(evaluator.run(None, dict(zip(names, inputs, strict=True))))
    kind, attributes = nodes[0].op_type, attributes_of(nodes[0])
    if kind == "DynamicQuantizeLinear":
        return dynamic(inputs[0])
    run = quantize_linear if kind == "QuantizeLinear" else dequantize_linear
    zero = inputs[2] if len(inputs) > 2 else None
    return [run(inputs[0], inputs[1], zero, attributes)]


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_case_of_onnx_comes_out_bit_for_bit(name: str) -> None:
    case = CASES[name]
    assert case.data_sets
    for inputs, outputs in case.data_sets:
        ours = _ours(case, [as_array(value) for value in inputs])
        for mine, theirs in zip(ours, outputs, strict=True):
            assert_same(mine, as_array(theirs), name)


def test_the_cases_cover_all_three_operators() -> None:
    kinds = [case.model.graph.node[-1].op_type for case in CASES.values()]
    assert len(CASES) >= 33
    assert set(kinds) == KINDS | {"QuantizeLinear"}


@pytest.mark.slow
def test_no_case_of_onnx_is_missing_here() -> None:
    """Loading all of onnx's node cases takes six seconds; the three modules hold all of ours."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        everything = load_model_tests(kind="node")
    assert set(_among(everything)) == set(CASES)

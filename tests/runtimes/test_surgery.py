"""Edits of the ONNX graph: the same function, in the form they promise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from burnish.runtimes._surgery import drop_zero_points, keep_floats, merge_pads, pool_globally

Nodes = list[onnx.NodeProto]
SIZE = (2, 4, 9, 9)


def model(nodes: Nodes, tensors: dict[str, Any]) -> onnx.ModelProto:
    """A model from `x` [2, 4, 9, 9] to `y`, with shapes in between."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SIZE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(made)


def edited(before: onnx.ModelProto, edit: Callable[[Any], None]) -> onnx.ModelProto:
    form = ir.from_proto(before)
    edit(form.graph)
    after: onnx.ModelProto = ir.to_proto(form)
    onnx.checker.check_model(after)
    return after


def run(made: onnx.ModelProto, optimized: bool = False) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(made.SerializeToString(), options)
    x = np.random.default_rng(0).standard_normal(SIZE).astype(np.float32)
    result: np.ndarray = session.run(None, {"x": x})[0]
    return result


def kinds(made: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in made.graph.node]


def quantizers(value: str, result: str) -> Nodes:
    """Quantize and dequantize."""
    return [
        helper.make_node("QuantizeLinear", [value, "scale", "zero"], [f"{result}_q"]),
        helper.make_node("DequantizeLinear", [f"{result}_q", "scale", "zero"], [result]),
    ]


SCALE: dict[str, Any] = {"scale": np.float32(0.05), "zero": np.uint8(100)}
RNG = np.random.default_rng(1)
WEIGHTS: dict[str, Any] = {
    "w": RNG.standard_normal((4, 4, 3, 3)).astype(np.float32),
    "b": RNG.standard_normal(4).astype(np.float32),
}


def pads(values: list[int], **more: Any) -> dict[str, Any]:
    return {"pads": np.array(values, np.int64), **WEIGHTS, **more}


@pytest.mark.parametrize("own", [None, [1, 1, 1, 1], [0, 1, 2, 0]])
def test_zero_padding_becomes_the_convolutions_own(own) -> None:
    attributes = {} if own is None else {"pads": own}
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["p"]),
        helper.make_node("Conv", ["p", "w", "b"], ["y"], **attributes),
    ]
    before = model(nodes, pads([0, 0, 0, 1, 0, 0, 2, 1]))
    after = edited(before, merge_pads)
    assert kinds(after) == ["Conv"]
    np.testing.assert_allclose(run(after), run(before), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "case", ["other value", "reflect", "channels", "cropping", "another reader", "given axes"]
)
def test_other_padding_stays(case: str) -> None:
    values = {"channels": [0, 1, 0, 0, 0, 0, 0, 0], "cropping": [0, 0, -1, 0, 0, 0, 0, 0]}
    tensors = pads(values.get(case, [0, 0, 1, 1, 0, 0, 1, 1]), v=np.float32(0.5))
    inputs, attributes = ["x", "pads"], {}
    if case == "channels":
        tensors["w"] = RNG.standard_normal((4, 5, 3, 3)).astype(np.float32)
    if case == "other value":
        inputs.append("v")
    if case == "reflect":
        attributes["mode"] = "reflect"
    if case == "given axes":
        tensors |= {"axes": np.array([2, 3], np.int64), "pads": np.array([1, 1, 1, 1], np.int64)}
        inputs += ["", "axes"]
    nodes = [
        helper.make_node("Pad", inputs, ["p"], **attributes),
        helper.make_node("Conv", ["p", "w", "b"], ["c"]),
    ]
    if case == "another reader":
        nodes += [
            helper.make_node("GlobalAveragePool", ["p"], ["g"]),
            helper.make_node("Add", ["c", "g"], ["y"]),
        ]
    else:
        nodes.append(helper.make_node("Relu", ["c"], ["y"]))
    before = model(nodes, tensors)
    after = edited(before, merge_pads)
    assert "Pad" in kinds(after)
    np.testing.assert_array_equal(run(after), run(before))


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("axes", [[2, 3], [-1, -2]])
def test_a_mean_of_quantized_values_becomes_a_pooling(axes: list[int], keep: int) -> None:
    nodes = [
        *quantizers("x", "r"),
        helper.make_node("ReduceMean", ["r", "axes"], ["y"], keepdims=keep),
    ]
    before = model(nodes, {**SCALE, "axes": np.array(axes, np.int64)})
    after = edited(before, pool_globally)
    assert "GlobalAveragePool" in kinds(after)
    assert "ReduceMean" not in kinds(after)
    assert run(after).shape == run(before).shape
    np.testing.assert_allclose(run(after), run(before), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("axes", "quantized"), [([1, 2], True), ([3], True), ([2, 3], False)])
def test_other_means_stay(axes: list[int], quantized: bool) -> None:
    nodes = quantizers("x", "r") if quantized else [helper.make_node("Relu", ["x"], ["r"])]
    nodes.append(helper.make_node("ReduceMean", ["r", "axes"], ["y"]))
    before = model(nodes, {**SCALE, "axes": np.array(axes, np.int64)})
    assert kinds(edited(before, pool_globally)) == kinds(before)


def between(middle: Nodes) -> onnx.ModelProto:
    """Quantized → `middle` from d to m → quantized."""
    return model([*quantizers("x", "d"), *middle, *quantizers("m", "y")], {**SCALE, **WEIGHTS})


CONV = helper.make_node("Conv", ["d", "w", "b"], ["m"])
CONV_RELU = [
    helper.make_node("Conv", ["d", "w", "b"], ["c"]),
    helper.make_node("Relu", ["c"], ["m"]),
]
CONV_CLIP = [
    helper.make_node("Conv", ["d", "w", "b"], ["c"]),
    helper.make_node("Clip", ["c"], ["m"]),
]
TRANSPOSED = helper.make_node("ConvTranspose", ["d", "w", "b"], ["m"])


@pytest.mark.parametrize(
    "middle", [[CONV], CONV_RELU, CONV_CLIP, [TRANSPOSED]], ids=["conv", "relu", "clip", "up"]
)
def test_floats_between_quantizers_stay_floats(middle: Nodes, tmp_path) -> None:
    """onnxruntime would quantize the weights by itself; after the edit it does not."""
    before = between(middle)
    after = edited(before, keep_floats)
    np.testing.assert_array_equal(run(after), run(before))
    for made, expected in ((before, True), (after, False)):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        onnxruntime.InferenceSession(made.SerializeToString(), options)
        result = onnx.load(tmp_path / "optimized.onnx")
        rounded = any(i.data_type == TensorProto.INT8 for i in result.graph.initializer)
        assert rounded == expected


def test_floats_elsewhere_are_not_touched() -> None:
    """A float convolution that reads or gives floats needs no protection."""
    conv = helper.make_node("Conv", ["x", "w", "b"], ["m"])
    before = model([conv, *quantizers("m", "y")], {**SCALE, **WEIGHTS})
    assert kinds(edited(before, keep_floats)) == kinds(before)


def test_zero_points_of_stored_integers_are_left_out() -> None:
    """Those of activations stay, and so does one that is not zero."""
    tensors: dict[str, Any] = {
        **SCALE,
        "i": RNG.integers(-127, 127, (4, 4, 3, 3)).astype(np.int8),
        "s": np.full(4, 0.01, np.float32),
        "z": np.zeros(4, np.int8),
        "other": np.ones(4, np.int8),
    }
    nodes = [
        *quantizers("x", "d"),
        helper.make_node("DequantizeLinear", ["i", "s", "z"], ["w1"], axis=0),
        helper.make_node("DequantizeLinear", ["i", "s", "other"], ["w2"], axis=0),
        helper.make_node("Conv", ["d", "w1"], ["c"]),
        helper.make_node("Conv", ["c", "w2"], ["y"]),
    ]
    before = model(nodes, tensors)
    after = edited(before, drop_zero_points)
    found = [list(n.input) for n in after.graph.node if n.op_type == "DequantizeLinear"]
    assert found[1:] == [["i", "s"], ["i", "s", "other"]]
    assert len(found[0]) == 3
    assert "z" not in [tensor.name for tensor in after.graph.initializer]
    np.testing.assert_array_equal(run(after), run(before))

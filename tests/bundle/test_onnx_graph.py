"""Reading a graph's names out of an ONNX file, and telling what its kernels are made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from burnish.bundle._onnx_graph import Graph, Made, Node, made_of, read_graph
from burnish.bundle._onnx_recording import recording_seconds
from burnish.bundle._onnxruntime import kernel_seconds
from burnish.errors import Damaged
from tests.bundle import models


def branching() -> onnx.ModelProto:
    """A branch with a body, an unnamed node, an optional input left out, unicode."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["cut"], name="inner relu")],
        "then",
        [],
        [value("cut", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["turned"], name="inner neg")],
        "else",
        [],
        [value("turned", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0, name="größe"),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], name="if", then_branch=body, else_branch=other),
        helper.make_node("Clip", ["y", "", "zero"], ["z"], name="clip"),
    ]
    graph = helper.make_graph(
        nodes,
        "branching",
        [value("x", TensorProto.FLOAT, [3])],
        [value("z", TensorProto.FLOAT, [3])],
        [numpy_helper.from_array(np.zeros((), np.float32), "zero")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_a_graph_reads_as_the_package_onnx_reads_it(tmp_path: Path) -> None:
    onnx.save(branching(), tmp_path / "model.onnx")
    found = read_graph(tmp_path / "model.onnx")
    assert found.stored == {"zero"}
    assert found.inputs == {"x"}
    bodies = {"inner relu", "inner neg"}
    assert {node.name for node in found.nodes if node.name in bodies} == bodies
    outer = [node for node in found.nodes if node.name not in bodies]
    wanted = branching().graph.node
    assert [(n.name, n.kind, n.inputs, n.outputs) for n in outer] == [
        (n.name, n.op_type, tuple(n.input), tuple(n.output)) for n in wanted
    ]


def test_what_is_no_onnx_file_is_damaged(tmp_path: Path) -> None:
    whole = branching().SerializeToString()
    path = tmp_path / "model.onnx"
    for data in (b"", b"no file of ours", whole[: len(whole) // 2], b"\x0f" + whole):
        path.write_bytes(data)
        with pytest.raises(Damaged, match="is no ONNX file"):
            read_graph(path)


def graph(*nodes: Node, stored: tuple[str, ...] = ()) -> Graph:
    return Graph(nodes, frozenset(stored), frozenset({"x"}))


FILE = graph(
    Node("a", "Conv", ("x", "w"), ("a:0",)),
    Node("norm", "BatchNormalization", ("a:0", "w"), ("norm:0",)),
    Node("relu", "Relu", ("norm:0",), ("relu:0",)),
    Node("b", "Conv", ("relu:0", "w"), ("b:0",)),
    Node("add", "Add", ("b:0", "relu:0"), ("add:0",)),
    Node("flat", "Flatten", ("add:0",), ("flat:0",)),
    Node("head", "Gemm", ("flat:0", "w"), ("y",)),
    stored=("w",),
)


def test_a_kernel_is_what_lies_between_its_inputs_and_outputs() -> None:
    found = made_of(
        FILE,
        graph(
            Node("fused a", "FusedConv", ("x", "w2"), ("relu:0",)),
            Node("fused b", "FusedConv", ("relu:0", "w", "", "relu:0"), ("add:0",)),
            Node("head", "Gemm", ("add:0", "w"), ("y",)),
        ),
    )
    assert set(found["fused a"].members) == {"a", "norm", "relu"}
    assert set(found["fused b"].members) == {"b", "add"}
    assert set(found["head"].members) == {"flat", "head"}
    assert all(made.feeds == () for made in found.values())


def test_another_layout_has_other_values_and_the_same_meaning() -> None:
    found = made_of(
        FILE,
        graph(
            Node("ReorderInput", "ReorderInput", ("x",), ("reorder_1",)),
            Node("norm:0_nchwc", "Conv", ("reorder_1", "w"), ("reorder_2",)),
            Node("b:0_nchwc_token_9", "Conv", ("reorder_2", "w", "", "reorder_2"), ("reorder_3",)),
            Node("ReorderOutput", "ReorderOutput", ("reorder_3",), ("add:0",)),
            Node("flat", "Flatten", ("add:0",), ("flat:0",)),
            Node("head", "Gemm", ("flat:0", "w"), ("y",)),
        ),
    )
    assert found["ReorderInput"] == Made((), found["norm:0_nchwc"].members)
    assert set(found["norm:0_nchwc"].members) == {"a", "norm", "relu"}
    assert set(found["b:0_nchwc_token_9"].members) == {"b", "add"}
    assert found["ReorderOutput"] == Made((), ("flat",))


def test_a_copy_of_an_output_feeds_nobody() -> None:
    found = made_of(
        graph(Node("a", "Conv", ("x", "w"), ("y",)), stored=("w",)),
        graph(
            Node("y_nchwc", "Conv", ("x", "w"), ("reorder",)),
            Node("ReorderOutput", "ReorderOutput", ("reorder",), ("y",)),
        ),
    )
    assert found == {"y_nchwc": Made(("a",)), "ReorderOutput": Made(())}


def test_onnxruntimes_own_rewriting_is_understood(tmp_path: Path) -> None:
    artifact = models.onnx_artifact(tmp_path / "tiny")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    file = artifact.folder / artifact.files[0]
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    made = made_of(read_graph(file), read_graph(tmp_path / "optimized.onnx"))
    named = [name for item in made.values() for name in item.members]
    assert sorted(named) == ["add", "matmul", "relu"]


# --- the profile


def event(name: str, kind: str, start: int, length: int) -> dict[str, object]:
    return {
        "cat": "Node",
        "name": f"{name}_kernel_time",
        "ts": start,
        "dur": length,
        "args": {"op_name": kind},
    }


RUN = {"cat": "Session", "name": "model_run", "ts": 0, "dur": 100, "args": {}}


def test_each_runs_kernels_are_kept_apart_and_bodies_counted_once() -> None:
    runs = kernel_seconds(
        [
            {"cat": "Session", "name": "session_initialization", "ts": 0, "dur": 1, "args": {}},
            event("a", "Conv", 10, 5),
            event("inside", "Add", 21, 3),
            event("inside", "Add", 25, 4),
            event("loop", "Loop", 20, 12),
            RUN,
            event("a", "Conv", 110, 7),
            RUN,
        ]
    )
    half = 0.5e-6
    assert len(runs) == 2
    assert runs[0]["a", "Conv"] == pytest.approx(5e-6 + half)
    assert runs[0]["inside", "Add"] == pytest.approx(7e-6 + 2 * half)
    assert runs[0]["loop", "Loop"] == pytest.approx(12e-6 + half - 7e-6 - 2 * half)
    assert runs[1] == {("a", "Conv"): pytest.approx(7e-6 + half)}


def test_what_recording_takes_is_taken_off_each_kernel() -> None:
    events = [event("a", "Conv", 10, 50), event("b", "Relu", 70, 2), RUN]
    (run,) = kernel_seconds(events, recording=4e-6)
    assert run["a", "Conv"] == pytest.approx(46.5e-6)
    assert run["b", "Relu"] == 0.0  # not below


def test_recording_takes_microseconds() -> None:
    assert 0 < recording_seconds(1) < 1e-4

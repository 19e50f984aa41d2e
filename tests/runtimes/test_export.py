"""Exporting: what is written, what is named, and what is refused."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import onnx
import pytest
import torch
from torch import nn

from burnish.errors import InvalidInput, MissingExtra, Unsupported
from burnish.graph import Traced, trace
from burnish.quantize import QuantizeStatic, calibrate, fold
from burnish.runtimes import Artifact, available, export, load, runtime
from burnish.testing import catalogue
from tests import once
from tests.runtimes.built import prepared

TINIES = {tiny.name: tiny for tiny in catalogue()}


@pytest.fixture(scope="module")
def linear() -> Traced:
    return trace(nn.Linear(4, 3).eval(), (torch.randn(2, 4),))


@pytest.fixture(scope="module")
def quantized(linear: Traced) -> Traced:
    folded, step = fold(linear), QuantizeStatic()
    choices = step.choose_from(folded, calibrate(folded, [(torch.randn(4, 4),)]))
    result = step.rewrite(folded, choices)
    assert isinstance(result, Traced)
    return result


def test_what_is_available() -> None:
    found = available()
    assert set(found) == {"eager", "inductor", "onnxruntime", "openvino"}
    assert {found[name] for name in ("eager", "onnxruntime", "openvino")} == {None}
    with pytest.raises(InvalidInput, match=r"'tensorrt'.*eager, inductor, onnxruntime, openvino"):
        runtime("tensorrt")


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_missing_runtime_says_how_to_get_it(name, linear, tmp_path, monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda package: None if package == name else find(package)
    )
    assert available()[name] == f"{name} is not installed: pip install {name}"
    with pytest.raises(MissingExtra, match=f"pip install {name}"):
        export(linear, name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "precision"),
    [("eager", "int8"), ("eager", "int4"), ("onnxruntime", "bfloat16"), ("openvino", "int4")],
)
def test_precisions_a_runtime_has_not_are_refused(name, precision, linear, tmp_path) -> None:
    with pytest.raises(Unsupported, match=rf"{name} artifacts come in .*{precision}"):
        export(linear, name, tmp_path, precision=precision)


def test_precisions_that_the_graph_contradicts_are_refused(linear, quantized, tmp_path) -> None:
    with pytest.raises(Unsupported, match="int8 artifact of a float graph"):
        export(linear, "onnxruntime", tmp_path, precision="int8")
    with pytest.raises(Unsupported, match="float32 artifact of a int8 graph"):
        export(quantized, "openvino", tmp_path)


def test_an_operator_without_a_translation_is_refused(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = torch.special.i1e(x)
            return y

    model = trace(Odd().eval(), (torch.randn(2, 4),))
    with pytest.raises(Unsupported, match="exporter refuses"):
        export(model, "onnxruntime", tmp_path)


@pytest.mark.parametrize("name", ["eager", "onnxruntime", "openvino"])
def test_the_artifact_opens_again(name: str, linear: Traced, tmp_path: Path) -> None:
    artifact = export(linear, name, tmp_path / "deep" / "folder")
    again = Artifact.open(tmp_path / "deep" / "folder")
    assert again == artifact
    assert json.loads((artifact.folder / "artifact.json").read_text())["runtime"] == name
    assert again.options.execution == "float32"


def test_bfloat16_is_a_hint(linear: Traced, tmp_path: Path) -> None:
    """The same file as float32, and options that say how to run it."""
    plain = export(linear, "openvino", tmp_path / "plain")
    hinted = export(linear, "openvino", tmp_path / "hinted", precision="bfloat16")
    assert (hinted.precision, hinted.options.execution) == ("bfloat16", "bfloat16")
    weights = [(a.folder / "model.bin").read_bytes() for a in (plain, hinted)]
    assert weights[0] == weights[1]


def test_onnx_names_its_nodes_as_plans_do(tmp_path: Path) -> None:
    """Through decomposition, dropped rectifiers and linear layers taken apart."""
    _, folded, statistics = prepared(TINIES["attention_split"])
    step = QuantizeStatic("onnxruntime")
    graph = step.rewrite(folded, step.choose_from(folded, statistics))
    assert isinstance(graph, Traced)
    artifact = export(graph, "onnxruntime", tmp_path, precision="int8")
    nodes = onnx.load(tmp_path / artifact.files[0]).graph.node
    named = {node.name: node.op_type for node in nodes}
    assert named["embed:linear"] == "MatMul"
    assert named["embed:linear~2"] == "Add"
    assert named["attention:softmax"] == "Softmax"
    assert named["add"] == "Add"
    assert named["attention:matmul#2"] == "MatMul"
    assert named["norm:layer_norm"] == "LayerNormalization"


def test_names_survive_where_rectifiers_were_dropped(tmp_path: Path) -> None:
    """The second of two additions keeps its number, though a ReLU between is gone."""
    _, folded, statistics = prepared(TINIES["residual"])
    step = QuantizeStatic("onnxruntime", exclude=("last",))
    graph = step.rewrite(folded, step.choose_from(folded, statistics))
    assert isinstance(graph, Traced)
    export(graph, "onnxruntime", tmp_path, precision="int8")
    nodes = onnx.load(tmp_path / "model.onnx").graph.node
    names = [node.name for node in nodes if node.op_type in ("Add", "Conv", "Gemm")]
    assert names == [
        "stem.0:conv2d",
        "body.0.0:conv2d",
        "body.2.0:conv2d",
        "add",
        "last.0.0:conv2d",
        "last.2.0:conv2d",
        "add#2",
        "head.2:linear",
    ]


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_artifacts_tell_nothing_of_where_they_were_made(name: str, tmp_path: Path) -> None:
    """No paths and no lines of the user's code: artifacts ship."""
    _, folded, _ = prepared(TINIES["plain_cnn"])
    artifact = export(folded, name, tmp_path)
    for file in artifact.files:
        data = (tmp_path / file).read_bytes()
        for secret in (b".py", str(Path(__file__).parents[2]).encode(), b"forward"):
            assert secret not in data, f"{secret!r} in {file}"


def test_openvino_gets_one_fake_quantize_for_each_quantizer(tmp_path: Path) -> None:
    """And nothing of what QuantizeLinear and DequantizeLinear were converted to."""
    _, folded, statistics = prepared(TINIES["separable"])
    step = QuantizeStatic("openvino")
    choices = step.choose_from(folded, statistics)
    graph = step.rewrite(folded, choices)
    assert isinstance(graph, Traced)
    export(graph, "openvino", tmp_path, precision="int8")
    layers = ElementTree.parse(tmp_path / "model.xml").getroot().iter("layer")
    kinds = Counter(layer.get("type") for layer in layers)
    weights = biases = len(choices.plan["operators"])
    pools = 1
    assert kinds["FakeQuantize"] == len(choices.plan["quantizers"])
    assert kinds["Convert"] == kinds["Multiply"] == weights + biases - 2 * pools
    assert kinds["Subtract"] == 0


def test_dynamic_axes_keep_their_names(tmp_path: Path) -> None:
    tiny = TINIES["encoder"]
    artifact = export(once.traced(tiny), "onnxruntime", tmp_path)
    graph = onnx.load(tmp_path / "model.onnx").graph
    for value in graph.input:
        dims = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        assert dims == ["batch", "length"]
    with load(artifact) as worker:
        inputs = tiny.inputs(3, seed=1, length=9)
        arrays = {name: tensor.numpy() for name, tensor in inputs.kwargs.items()}
        assert [array.shape for array in worker.run(arrays)] == [(3, 5), (3, 9, 16)]


def test_the_exporters_translations_are_parsed_once(
    linear: Traced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of exporting a small model, were it done each time."""
    export(linear, "onnxruntime", tmp_path / "first")
    parsed: list[object] = []
    monkeypatch.setattr("onnxscript._internal.ast_utils.get_src_and_ast", parsed.append)
    other = trace(nn.Linear(5, 2).eval(), (torch.randn(2, 5),))
    export(other, "onnxruntime", tmp_path / "second")
    assert parsed == []

"""One export of a graph for all runtimes: made once, and again when the graph has changed."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from burnish.graph import Traced, operator_names, trace
from burnish.runtimes import export, load
from burnish.runtimes._exported import Remembered


class Net(nn.Module):
    """A padded convolution (OpenVINO's edit merges the pad) and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.head = nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(nn.functional.pad(x, (0, 1, 0, 1))))
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


def traced() -> Traced:
    torch.manual_seed(0)
    return trace(Net().eval(), (torch.randn(2, 1, 6, 6),))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often torch exports and its ONNX exporter runs."""
    seen = {"program": 0, "onnx": 0}
    program, to_onnx = torch.export.export, torch.onnx.export

    def exporting(*args: Any, **kwargs: Any) -> Any:
        seen["program"] += 1
        return program(*args, **kwargs)

    def translating(*args: Any, **kwargs: Any) -> Any:
        seen["onnx"] += 1
        return to_onnx(*args, **kwargs)

    monkeypatch.setattr(torch.export, "export", exporting)
    monkeypatch.setattr(torch.onnx, "export", translating)
    return seen


def test_all_runtimes_share_one_export(calls: dict[str, int], tmp_path: Path) -> None:
    model = traced()
    before = dict(calls)
    export(model, "eager", tmp_path / "eager")
    export(model, "openvino", tmp_path / "openvino")
    export(model, "openvino", tmp_path / "bfloat16", precision="bfloat16")
    export(model, "onnxruntime", tmp_path / "onnxruntime")
    assert calls["program"] - before["program"] == 1
    assert calls["onnx"] == 1


def test_one_runtimes_edits_do_not_show_in_anothers_file(tmp_path: Path) -> None:
    model = traced()
    for name in ("first", "second"):
        export(model, "onnxruntime", tmp_path / name)
        export(model, "openvino", tmp_path / f"{name} openvino")
    export(traced(), "onnxruntime", tmp_path / "alone")
    files = [(tmp_path / name / "model.onnx").read_bytes() for name in ("first", "second", "alone")]
    assert files[0] == files[1] == files[2]


def test_a_changed_tensor_or_graph_is_exported_again(tmp_path: Path) -> None:
    model = traced()
    x = {"x": np.linspace(-9, 9, 36, dtype=np.float32).reshape(1, 1, 6, 6)}

    def answer(name: str) -> np.ndarray[Any, Any]:
        with load(export(model, "onnxruntime", tmp_path / name)) as worker:
            return worker.run(x)[0]

    first = answer("first")
    with torch.no_grad():
        next(iter(model.parameters())).mul_(2)
    second = answer("second")
    assert not np.allclose(first, second)
    (relu,) = (n for n in model.graph_module.graph.nodes if n.target is torch.ops.aten.relu.default)
    relu.target = torch.ops.aten.neg.default
    model.graph_module.recompile()
    third = answer("third")
    assert not np.allclose(second, third)
    with torch.inference_mode():
        wanted = model(torch.from_numpy(x["x"])).numpy()
    np.testing.assert_allclose(third, wanted, rtol=1e-5, atol=1e-6)


def test_tensors_that_do_not_count_their_changes_are_never_remembered() -> None:
    made: list[Traced] = []

    def make(model: Traced) -> int:
        made.append(model)
        return len(made)

    remembered = Remembered(make)
    model = traced()
    assert remembered(model) == remembered(model) == 1
    with torch.inference_mode():
        model.graph_module.register_buffer("inference", torch.ones(1))
    assert (remembered(model), remembered(model)) == (2, 3)


def test_what_is_remembered_goes_with_the_model(tmp_path: Path) -> None:
    model = traced()
    export(model, "onnxruntime", tmp_path)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_a_program_comes_with_the_names_of_its_operators(tmp_path: Path) -> None:
    model = traced()
    artifact = export(model, "eager", tmp_path)
    assert artifact.files == ("model.pt2", "operators.json")
    table = json.loads((tmp_path / "operators.json").read_text())["operators"]
    names = [n for n in operator_names(model.graph_module).values() if not n.startswith("input:")]
    assert list(table.values()) == names


def test_openvino_names_what_the_converter_only_numbered(tmp_path: Path) -> None:
    from xml.etree import ElementTree

    model = traced()
    export(model, "onnxruntime", tmp_path / "onnx")
    file = onnx.load(tmp_path / "onnx" / "model.onnx")
    nodes = {part for node in file.graph.node for part in node.name.split("+")}
    export(model, "openvino", tmp_path / "openvino")
    layers = ElementTree.parse(tmp_path / "openvino" / "model.xml").getroot().iter("layer")
    kinds = ("Const", "Parameter", "Result")
    named = [str(x.get("name")) for x in layers if x.get("type") not in kinds]
    assert named
    told = {part for name in named for part in name.partition("/")[0].split("+")}
    assert told <= nodes
    assert "head:linear" in told  # which the converter calls after the output

"""Tiny models for three runtimes, and a fake runtime to misbehave on demand.

`relu(x @ w + b)` with a dynamic batch, written without any exporter, so that a test can compute
what must come out. The fake is a package called onnxruntime put before the real one on the child's
path: it aborts, sleeps or chatters where the test says.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from burnish.bundle import Artifact, Port

WIDTH, CLASSES = 16, 8
WEIGHT = np.random.default_rng(0).standard_normal((WIDTH, CLASSES)).astype(np.float32)
BIAS = np.random.default_rng(1).standard_normal(CLASSES).astype(np.float32)
INPUTS = (Port("x", "float32", ("batch", WIDTH)),)
OUTPUTS = (Port("y", "float32", ("batch", CLASSES)),)

Array = np.ndarray[Any, Any]


def samples(count: int, seed: int = 0) -> dict[str, Array]:
    """Inputs for `count` samples."""
    random = np.random.default_rng(seed)
    return {"x": random.standard_normal((count, WIDTH)).astype(np.float32)}


def expected(inputs: dict[str, Array]) -> Array:
    """What the model gives, in float64."""
    return np.maximum(inputs["x"].astype(np.float64) @ WEIGHT + BIAS, 0)


def onnx_model(weight: Array = WEIGHT, bias: Array = BIAS, *, mix: bool = False) -> onnx.ModelProto:
    """The model as ONNX; with `mix` each sample gets the sum up to it in its batch."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"], name="matmul"),
        helper.make_node("Add", ["product", "b"], ["sum"], name="add"),
        helper.make_node("Relu", ["sum"], ["cut" if mix else "y"], name="relu"),
    ]
    if mix:
        nodes.append(helper.make_node("CumSum", ["cut", "axis"], ["y"], name="cumsum"))
    constants = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")]
    constants += [numpy_helper.from_array(np.zeros((), np.int64), "axis")] if mix else []
    width, classes = weight.shape
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", classes])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def onnx_artifact(folder: Path, **changes: Any) -> Artifact:
    """The model for onnxruntime, its record saved."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(onnx_model(**changes), folder / "model.onnx")
    artifact = Artifact(folder, "onnxruntime", "float32", ("model.onnx",), INPUTS, OUTPUTS)
    artifact.save()
    return artifact


def openvino_artifact(folder: Path) -> Artifact:
    """The model for OpenVINO, its record saved."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(onnx_model(), folder / "source.onnx")
    converted = openvino.convert_model(folder / "source.onnx")
    openvino.save_model(converted, folder / "model.xml", compress_to_fp16=False)
    files = ("model.xml", "model.bin")
    artifact = Artifact(folder, "openvino", "float32", files, INPUTS, OUTPUTS)
    artifact.save()
    return artifact


def program() -> Any:
    """The model as a torch.export program with a dynamic batch."""
    import torch

    layer = torch.nn.Linear(WIDTH, CLASSES)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(WEIGHT.T.copy()))
        layer.bias.copy_(torch.from_numpy(BIAS))
    model = torch.nn.Sequential(layer, torch.nn.ReLU()).eval()
    batch = torch.export.Dim("batch")
    return torch.export.export(model, (torch.zeros(2, WIDTH),), dynamic_shapes=({0: batch},))


def eager_artifact(folder: Path, runtime: str = "eager") -> Artifact:
    """The model for eager torch, or for inductor, its record saved."""
    from burnish.bundle import save_program

    folder.mkdir(parents=True, exist_ok=True)
    save_program(program(), folder / "model.pt2")
    artifact = Artifact(folder, runtime, "float32", ("model.pt2",), INPUTS, OUTPUTS)
    artifact.save()
    return artifact


_FAKE = """
import os, sys, time
import numpy as np
{top}
class SessionOptions:
    def add_session_config_entry(self, key, value): pass
class ExecutionMode:
    ORT_SEQUENTIAL = 0
def get_available_providers(): return ["CPUExecutionProvider"]
class Named:
    def __init__(self, name): self.name = name
class InferenceSession:
    def __init__(self, path, options, providers):
        {load}
    def disable_fallback(self): pass
    def get_inputs(self): return [Named("x")]
    def get_outputs(self): return [Named("y")]
    def run(self, names, feed):
        {run}
        return [np.zeros((len(feed["x"]), {classes}), np.float32)]
"""


def fake_onnxruntime(folder: Path, *, top: str = "", load: str = "pass", run: str = "pass") -> str:
    """Write the fake and give the folder to put on PYTHONPATH; the arguments are statements."""
    package = folder / "fake" / "onnxruntime"
    package.mkdir(parents=True)
    text = _FAKE.format(top=top, load=load, run=run, classes=CLASSES)
    (package / "__init__.py").write_text(text)
    return str(package.parent)

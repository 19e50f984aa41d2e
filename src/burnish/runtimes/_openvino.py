"""OpenVINO: the ONNX file converted to its own format, with quantizers as FakeQuantize.

OpenVINO decides the precision of each operator from FakeQuantize nodes; QuantizeLinear with its
DequantizeLinear says the same in four nodes, but fixes the integer type: uint8 with zero point 128
then computes with a zero point where signed int8 would need none. One FakeQuantize over the same
grid leaves the choice to OpenVINO and gives the same values.

The precision "bfloat16" is not another file but an execution hint; the artifact says so in its
options. "float16" and "bfloat16-weights" are files that hold the weights of a graph cast to those
types, about half as large, with a conversion behind each: OpenVINO widens them when it loads, and
computes in the execution type of the options, float32 unless told otherwise. The two are
independent of one another. Conversions of activations are dropped: OpenVINO would compute a
bfloat16 convolution in bfloat16 where the machine can, whatever the hint says.

Weights stored in blocks become the plugin's compressed constants (`_block_openvino`).

Left out: OpenVINO's own compression to float16, which asks nothing about range.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from burnish.bundle import Artifact, Options, Worker
from burnish.graph import Traced
from burnish.runtimes._block_openvino import BlockInputs
from burnish.runtimes._onnx import to_onnx
from burnish.runtimes._openvino_lstm import store_lstm_weights
from burnish.runtimes._openvino_names import name_nodes
from burnish.runtimes._runtime import check_precision, missing, ports, require
from burnish.runtimes._surgery import drop_zero_points, merge_pads

FILES = ("model.xml", "model.bin")
# The precisions and what the graph holds: "bfloat16" is a hint over a float32 file.
KNOWN = {
    "float32": "float32",
    "bfloat16": "float32",
    "float16": "float16",
    "bfloat16-weights": "bfloat16",
    "int8": "int8",
    "int8-weights": "int8-weights",
    "int4-weights": "int4-weights",
}


@dataclass(frozen=True)
class OpenVino:
    """Intel's OpenVINO, on its CPU plugin unless the target names another of its devices."""

    name: str = "openvino"

    def available(self) -> str | None:
        """None, or the install line."""
        return missing(self.name, "openvino")

    def export(self, model: Traced, folder: Path, *, precision: str = "float32") -> Artifact:
        """Write `model.xml`, `model.bin` and `artifact.json`."""
        require(self.available())
        check_precision(self.name, model, precision, KNOWN)
        openvino = _silent_openvino()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            onnx_file = Path(scratch) / "model.onnx"
            blocks = BlockInputs()
            written = to_onnx(model, onnx_file, (blocks.take, merge_pads, drop_zero_points))
            converted = openvino.convert_model(str(onnx_file))
            name_nodes(converted, written)
            fuse_quantizers(converted)
            store_lstm_weights(converted)
            blocks.give_back(converted)
            if KNOWN[precision] in ("float16", "bfloat16"):
                widen(converted)
            openvino.save_model(converted, str(folder / FILES[0]), compress_to_fp16=False)
        artifact = Artifact(
            folder=folder,
            runtime=self.name,
            precision=precision,
            files=FILES,
            inputs=ports(model.inputs),
            outputs=ports(model.outputs),
            tree=dict(model.tree),
            options=Options(execution="bfloat16" if precision == "bfloat16" else "float32"),
        )
        artifact.save()
        return artifact

    def load(self, artifact: Artifact) -> Worker:
        """A worker with the artifact loaded."""
        return Worker(artifact)


def _silent_openvino() -> Any:
    """OpenVINO without its telemetry, which forks a process and reports over the network.

    It looks for the package once, when it is imported, and has a stub for where it is absent.
    """
    package = "openvino_telemetry"
    known = package in sys.modules
    if not known:
        sys.modules[package] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        if not known:
            del sys.modules[package]
    return openvino


def fuse_quantizers(model: Any) -> int:
    """Replace FakeQuantize → Convert → [Convert] → [Subtract] → Multiply by one FakeQuantize.

    The first half is what QuantizeLinear became, the second DequantizeLinear. Returns how many.
    """
    from openvino import opset13 as ops

    fused = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() != "FakeQuantize":
            continue
        tail = _dequantizer(node)
        if tail is None:
            continue
        multiply, zero, scale = tail
        low_in, high_in, low, high = (_value(node, index) for index in (1, 2, 3, 4))
        assert low is not None
        assert high is not None
        bounds = [np.float32((edge - zero) * scale) for edge in (low, high)]
        inputs = [ops.constant(np.float32(edge)) for edge in (low_in, high_in)]
        outputs = [ops.constant(edge) for edge in bounds]
        name = multiply.get_friendly_name()
        single = ops.fake_quantize(node.input_value(0), *inputs, *outputs, node.get_levels())
        single.set_friendly_name(f"{name}/quantize")
        for reader in list(multiply.output(0).get_target_inputs()):
            reader.replace_source_output(single.output(0))
        fused += 1
    if fused:
        model.validate_nodes_and_infer_types()
    return fused


def widen(model: Any) -> int:
    """Make every float16 and bfloat16 value float32 but the stored ones; how many those are.

    Conversions from float to float are dropped, and one is put behind each stored tensor.
    """
    from openvino import opset13 as ops

    floats = ("f32", "f16", "bf16")
    stored = []
    for node in model.get_ordered_ops():
        kind, type_name = node.get_type_name(), node.get_output_element_type(0).get_type_name()
        if kind == "Constant" and type_name in floats[1:]:
            stored.append(node)
        elif kind == "Convert" and type_name in floats:
            source = node.input_value(0)
            if source.get_element_type().get_type_name() in floats:
                for reader in list(node.output(0).get_target_inputs()):
                    reader.replace_source_output(source)
    for node in stored:
        readers = list(node.output(0).get_target_inputs())
        wide = ops.convert(node.output(0), "f32")
        wide.set_friendly_name(f"{node.get_friendly_name()}/widened")
        for reader in readers:
            reader.replace_source_output(wide.output(0))
    model.validate_nodes_and_infer_types()
    return len(stored)


def _dequantizer(node: Any) -> tuple[Any, Any, Any] | None:
    """The Multiply that ends the chain behind a FakeQuantize, with zero point and scale."""
    zero: Any = np.float32(0)
    while True:
        readers = list(node.output(0).get_target_inputs())
        if len(readers) != 1:
            return None
        node = readers[0].get_node()
        kind = node.get_type_name()
        if kind == "Subtract":
            zero = _value(node, 1)
        elif kind == "Multiply":
            scale = _value(node, 1)
            return None if zero is None or scale is None else (node, zero, scale)
        elif kind != "Convert":
            return None


def _value(node: Any, index: int) -> Any:
    """The constant an input reads, through conversions; None where it is computed."""
    source = node.input_value(index).get_node()
    while source.get_type_name() == "Convert":
        source = source.input_value(0).get_node()
    if source.get_type_name() != "Constant":
        return None
    data = np.asarray(source.get_data(), dtype=np.float32)
    return data.reshape(()) if data.size == 1 else data

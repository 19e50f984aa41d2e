"""onnxruntime: the ONNX file as torch writes it; float32, int8, float16, weights in blocks.

A float16 file is for its size: on an x86 CPU onnxruntime (1.31) widens what it has no kernel for
(nearly everything) with conversions of its own, and is no faster. For bfloat16 it has neither
kernels nor such conversions: those graphs are refused.

Left out: execution providers beyond the ones the worker finds for the target's device.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from burnish.bundle import Artifact, Options, Worker
from burnish.graph import Traced, operator, operator_names
from burnish.runtimes._block_onnx import pack_blocks
from burnish.runtimes._onnx import to_onnx
from burnish.runtimes._runtime import check_precision, missing, ports, require
from burnish.runtimes._surgery import keep_floats, merge_pads, pool_globally

FILE = "model.onnx"
KNOWN = {name: name for name in ("float32", "float16", "int8", "int8-weights", "int4-weights")}

# Operators and the ONNX ones without a bfloat16 kernel that they become.
_WITHOUT_BFLOAT16 = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), "Conv"),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d"), "ConvTranspose"),
    **dict.fromkeys(("linear", "addmm"), "Gemm"),
    **dict.fromkeys(("matmul", "mm", "bmm"), "MatMul"),
    **dict.fromkeys(("add", "sub"), "Add"),
}


@dataclass(frozen=True)
class OnnxRuntime:
    """Microsoft's onnxruntime."""

    name: str = "onnxruntime"

    def available(self) -> str | None:
        """None, or the install line."""
        return missing(self.name, "onnxruntime")

    def export(self, model: Traced, folder: Path, *, precision: str = "float32") -> Artifact:
        """Write `model.onnx` and `artifact.json`."""
        require(self.available())
        check_precision(self.name, model, precision, KNOWN, _why_not(model, precision))
        folder.mkdir(parents=True, exist_ok=True)
        to_onnx(model, folder / FILE, (pack_blocks, merge_pads, pool_globally, keep_floats))
        artifact = Artifact(
            folder=folder,
            runtime=self.name,
            precision=precision,
            files=(FILE,),
            inputs=ports(model.inputs),
            outputs=ports(model.outputs),
            tree=dict(model.tree),
            options=Options(),
        )
        artifact.save()
        return artifact

    def load(self, artifact: Artifact) -> Worker:
        """A worker with the artifact loaded."""
        return Worker(artifact)


def _why_not(model: Traced, precision: str) -> str:
    """Which operators of a bfloat16 graph have no kernel."""
    if precision != "bfloat16":
        return ""
    names = [
        name
        for node, name in operator_names(model.graph_module).items()
        if node.op == "call_function" and operator(node) in _WITHOUT_BFLOAT16
    ]
    listed = f", so not for {', '.join(names[:4])}" if names else ""
    kinds = ", ".join(dict.fromkeys(_WITHOUT_BFLOAT16.values()))
    return (
        f": on the CPU it has no bfloat16 kernel for {kinds}{listed}; take float16, or "
        "bfloat16 with openvino or eager"
    )

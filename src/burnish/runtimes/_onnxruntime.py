"""onnxruntime: the ONNX file as torch writes it; float32 and int8 on the CPU.

Left out: float16 and bfloat16 on the CPU (no kernels worth the name), execution providers beyond
the ones the worker finds for the target's device.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from burnish.bundle import Artifact, Options, Worker
from burnish.graph import Traced
from burnish.runtimes._onnx import to_onnx
from burnish.runtimes._runtime import check_precision, missing, ports, require
from burnish.runtimes._surgery import keep_floats, merge_pads, pool_globally

FILE = "model.onnx"


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
        check_precision(self.name, model, precision, ("float32", "int8"))
        folder.mkdir(parents=True, exist_ok=True)
        to_onnx(model, folder / FILE, (merge_pads, pool_globally, keep_floats))
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

"""PyTorch's own eager execution: the baseline people start from.

The artifact is a `.pt2` program without example inputs; see `bundle`. It holds float graphs only,
in float32 or as `quantize.Cast` made them, and computes in the types they hold: quantized ones can
be simulated in eager mode, but there is no int8 kernel to time.

Left out: torch.compile, which is a runtime of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from burnish.bundle import Artifact, Worker
from burnish.graph import Traced
from burnish.runtimes._program import export_program
from burnish.runtimes._runtime import check_precision

KNOWN = {name: name for name in ("float32", "float16", "bfloat16")}


@dataclass(frozen=True)
class Eager:
    """PyTorch as installed."""

    name: str = "eager"

    def available(self) -> str | None:
        """Always: Burnish itself needs torch to optimize."""
        return None

    def export(self, model: Traced, folder: Path, *, precision: str = "float32") -> Artifact:
        """Write `model.pt2` and `artifact.json`."""
        check_precision(self.name, model, precision, KNOWN)
        return export_program(self.name, model, folder, precision)

    def load(self, artifact: Artifact) -> Worker:
        """A worker with the artifact loaded."""
        return Worker(artifact)

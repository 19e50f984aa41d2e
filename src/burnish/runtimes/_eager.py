"""PyTorch's own eager execution: the baseline people start from.

The artifact is a `.pt2` program without example inputs; see `bundle`. It holds float graphs only,
in float32 or as `quantize.Cast` made them, and computes in the types they hold: quantized ones can
be simulated in eager mode, but there is no int8 kernel to time.

Left out: torch.compile, which is a runtime of its own.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from burnish.bundle import Artifact, Options, Worker, save_program
from burnish.graph import Traced
from burnish.runtimes._runtime import check_precision, ports

FILE = "model.pt2"
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
        folder.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                model.graph_module, model.example(), dynamic_shapes=model.dynamic_shapes()
            )
            save_program(program, folder / FILE)
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

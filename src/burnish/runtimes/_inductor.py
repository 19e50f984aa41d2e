"""torch.compile with inductor, frozen: eager's archive, compiled where it is loaded.

Float32, and bfloat16 as `quantize.Cast` makes it; it computes in the types the graph holds. A
worker compiles when it meets the sizes of its inputs, which takes seconds to minutes and counts as
load time (`bundle` has the details). So a target has to name it: it is no part of what is tried by
default.

Left out: int8 (inductor would take our quantizers for calls it knows nothing about); float16,
which few processors compute in; compiled code that ships (it would be native code from a file).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from burnish.bundle import Artifact, Worker, without_compiler
from burnish.graph import Traced
from burnish.runtimes._program import export_program
from burnish.runtimes._runtime import check_precision, require

KNOWN = {name: name for name in ("float32", "bfloat16")}


@dataclass(frozen=True)
class Inductor:
    """PyTorch with a C++ compiler."""

    name: str = "inductor"

    def available(self) -> str | None:
        """None, or what inductor lacks to compile, with the line that installs it."""
        return without_compiler()

    def export(self, model: Traced, folder: Path, *, precision: str = "float32") -> Artifact:
        """Write `model.pt2` and `artifact.json`; nothing is compiled yet."""
        require(self.available())
        check_precision(self.name, model, precision, KNOWN)
        return export_program(self.name, model, folder, precision)

    def load(self, artifact: Artifact) -> Worker:
        """A worker with the artifact loaded; it compiles for the inputs it is given first."""
        return Worker(artifact)

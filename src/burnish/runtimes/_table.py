"""The runtimes we know, by name, and the functions that take a name."""

from __future__ import annotations

from pathlib import Path

from burnish.bundle import Artifact, Worker
from burnish.errors import InvalidInput
from burnish.graph import Traced
from burnish.runtimes._eager import Eager
from burnish.runtimes._inductor import Inductor
from burnish.runtimes._onnxruntime import OnnxRuntime
from burnish.runtimes._openvino import OpenVino
from burnish.runtimes._runtime import Runtime

_RUNTIMES: dict[str, Runtime] = {
    known.name: known for known in (Eager(), Inductor(), OnnxRuntime(), OpenVino())
}


def runtime(name: str) -> Runtime:
    """A runtime by its name. InvalidInput for a name that is none."""
    if name not in _RUNTIMES:
        raise InvalidInput(f"no runtime {name!r}: one of {', '.join(_RUNTIMES)}")
    return _RUNTIMES[name]


def available() -> dict[str, str | None]:
    """Every runtime's name, with None where it can run here and the reason where it cannot."""
    return {name: known.available() for name, known in _RUNTIMES.items()}


def export(model: Traced, name: str, folder: Path, *, precision: str = "float32") -> Artifact:
    """Export a traced model for a runtime; see `Runtime.export`."""
    return runtime(name).export(model, folder, precision=precision)


def load(artifact: Artifact) -> Worker:
    """A worker with the artifact loaded by its runtime."""
    return runtime(artifact.runtime).load(artifact)

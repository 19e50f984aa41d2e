"""What a runtime is to us: four questions, one file each that answers them.

A runtime exports a traced graph to an artifact's folder; loading, running and timing per operator
are done by the worker process of `bundle`, so that they need no torch where the artifact does not.

Left out: runtimes that compile for a device other than the one they run on.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Protocol

from burnish.bundle import Artifact, Port, Worker
from burnish.errors import MissingExtra, Unsupported
from burnish.graph import DEQUANTIZE, QUANTIZE, Slot, Traced


class Runtime(Protocol):
    """The seam a further runtime implements; `testing.RuntimeContract` is its contract."""

    @property
    def name(self) -> str:
        """The name targets and artifacts know it by."""
        ...

    def available(self) -> str | None:
        """None where it can run here; else the reason, with the line that installs it."""
        ...

    def export(self, model: Traced, folder: Path, *, precision: str = "float32") -> Artifact:
        """Write the artifact into `folder`. `precision` is "float32", "bfloat16" or "int8".

        Raises Unsupported for a precision or operator it has no form for, MissingExtra where it
        is not installed.
        """
        ...

    def load(self, artifact: Artifact) -> Worker:
        """A worker process with the artifact loaded. RuntimeFailed where it refuses."""
        ...


def missing(runtime: str, package: str) -> str | None:
    """The reason a package is not there, with its install line; None where it is."""
    if importlib.util.find_spec(package) is not None:
        return None
    return f"{runtime} is not installed: pip install {package}"


def require(reason: str | None) -> None:
    """MissingExtra for a reason given by `available`."""
    if reason is not None:
        raise MissingExtra(reason)


def ports(slots: tuple[Slot, ...]) -> tuple[Port, ...]:
    """A graph's slots as an artifact's ports."""
    return tuple(Port(slot.name, slot.dtype, slot.shape) for slot in slots)


def is_quantized(model: Traced) -> bool:
    """Whether the graph holds our quantize or dequantize operators."""
    return any(node.target in (QUANTIZE, DEQUANTIZE) for node in model.graph_module.graph.nodes)


def check_precision(runtime: str, model: Traced, precision: str, known: tuple[str, ...]) -> None:
    """Unsupported where a precision is unknown to a runtime or contradicts the graph."""
    if precision not in known:
        raise Unsupported(f"{runtime} artifacts come in {', '.join(known)}, not in {precision!r}")
    if (precision == "int8") != is_quantized(model):
        held = "int8" if is_quantized(model) else "float"
        raise Unsupported(f"asked {runtime} for a {precision} artifact of a {held} graph")

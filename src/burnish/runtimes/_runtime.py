"""What a runtime is to us: four questions, one file each that answers them.

A runtime exports a traced graph to an artifact's folder; loading, running and timing per operator
are done by the worker process of `bundle`, so that they need no torch where the artifact does not.

Left out: runtimes that compile for a device other than the one they run on.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch

from burnish.bundle import Artifact, Port, Worker
from burnish.errors import MissingExtra, Unsupported
from burnish.graph import DEQUANTIZE, DEQUANTIZE_BLOCKS, DYNAMIC, FAKE, QUANTIZE, Slot, Traced

_SMALL = {torch.float16: "float16", torch.bfloat16: "bfloat16"}


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
        """Write the artifact into `folder`.

        `precision` is "float32" or "int8"; "int8-weights" or "int4-weights" for a graph in which
        nothing but weights in blocks is quantized; "float16" for a graph cast to it; "bfloat16"
        for a graph cast to it or, on OpenVINO, for a float32 file run under its bfloat16 hint,
        where "bfloat16-weights" is the cast graph.

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
    """Whether the graph holds operators of ours that quantize, dequantize or read integers.

    Weights stored in blocks are no such operators: all of such a graph is computed in float.
    """
    ours = {QUANTIZE, DEQUANTIZE, *DYNAMIC}
    return any(node.target in ours for node in model.graph_module.graph.nodes)


def held_by(model: Traced) -> str:
    """What a graph holds: "float32", "float16", "bfloat16", "int8", or, where nothing but stored
    weights is quantized, "int8-weights" or "int4-weights", by the fewest bits of any."""
    if is_quantized(model):
        return "int8"
    nodes = model.graph_module.graph.nodes
    bits = [int(node.args[3]) for node in nodes if node.target is DEQUANTIZE_BLOCKS]
    return f"int{min(bits)}-weights" if bits else cast_to(model) or "float32"


def cast_to(model: Traced) -> str | None:
    """ "float16" or "bfloat16" where the graph was cast to it; None where it was not."""
    module = model.graph_module
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dtype in _SMALL:
            return _SMALL[tensor.dtype]
    for node in module.graph.nodes:
        if node.kwargs.get("dtype") in _SMALL:
            return _SMALL[node.kwargs["dtype"]]
    return None


def check_precision(
    runtime: str, model: Traced, precision: str, known: Mapping[str, str], why_not: str = ""
) -> None:
    """Unsupported where a precision is unknown to a runtime or contradicts the graph.

    Args:
        runtime: its name.
        model: the graph.
        precision: what was asked for.
        known: the precisions the runtime has, each with what a graph must hold for it, as `held_by`
            says it.
        why_not: why it has no other, to end the refusal with.
    """
    if any(node.target in FAKE for node in model.graph_module.graph.nodes):
        raise Unsupported(
            f"asked {runtime} for an artifact of a graph that is prepared for quantization-aware "
            "training: apply quantize.ConvertQat first"
        )
    if precision not in known:
        names = ", ".join(known)
        raise Unsupported(f"{runtime} artifacts come in {names}, not in {precision!r}{why_not}")
    held = held_by(model)
    if known[precision] != held:
        name = "float" if held == "float32" else held
        other = [key for key, value in known.items() if value == held]
        do = f"ask for {' or '.join(map(repr, other))}" if other else "it has none for such a graph"
        if known[precision] in _SMALL.values() and held == "float32":
            do += f", or cast the graph first: quantize.Cast({known[precision]!r})"
        raise Unsupported(f"asked {runtime} for a {precision} artifact of a {name} graph: {do}")

"""A dynamically quantized model on onnxruntime, run once, beside its simulation."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from burnish.bundle import OpTime
from burnish.goal import Inputs
from burnish.graph import Traced, flatten, flatten_call
from burnish.quantize import Coverage, QuantizeDynamic, coverage, fold
from burnish.runtimes import export, load

ALL = ("linear", "conv", "lstm", "gru", "embedding")
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Ran:
    """Outputs of the float model, of the simulation and of the artifact, and what ran."""

    floats: list[Array]
    simulated: list[Array]
    given: list[Array]
    rows: dict[str, Coverage]
    operators: tuple[OpTime, ...]
    size: int

    def kinds(self, name: str) -> set[str]:
        """The kinds of the runtime's nodes made of an operator."""
        return {op.kind for op in self.operators if op.name.split("~")[0] == name}

    def close(self, tolerance: float = 1e-5) -> bool:
        """Whether the artifact gives what was simulated: equal integers, sums in another order."""
        pairs = zip(self.given, self.simulated, strict=True)
        return all(np.allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max()) for a, b in pairs)


def ran(model: Traced, inputs: Inputs, step: QuantizeDynamic, runtime: str = "onnxruntime") -> Ran:
    """Quantize, export, run with one thread."""
    choices = step.choose_from(fold(model))
    graph = step.rewrite(model, choices)
    assert isinstance(graph, Traced)
    tensors = flatten_call(inputs.args, inputs.kwargs)
    arrays = {slot.name: t.numpy() for slot, t in zip(model.inputs, tensors, strict=True)}
    with tempfile.TemporaryDirectory() as folder:
        artifact = export(graph, runtime, Path(folder) / "int8", precision="int8")
        with load(artifact.with_options(threads=1)) as worker:
            given = [np.array(array) for array in worker.run(arrays)]
            operators = worker.op_times(arrays, repeats=1)
        size = artifact.size_bytes()
    with torch.no_grad():
        floats, simulated = (
            [t.numpy() for t in flatten(m(*inputs.args, **inputs.kwargs))[0]]
            for m in (model, graph)
        )
    rows = {row.operator: row for row in coverage(choices)}
    return Ran(floats, simulated, given, rows, operators, size)


def float_size(model: Traced, runtime: str = "onnxruntime") -> int:
    """The bytes of the float artifact."""
    with tempfile.TemporaryDirectory() as folder:
        return export(model, runtime, Path(folder)).size_bytes()


class Recurrent(nn.Module):
    """A recurrent layer, with first states of its own where asked; all it returns."""

    def __init__(self, kind: str, states: int, **settings: Any) -> None:
        super().__init__()
        self.layer = getattr(nn, kind)(12, 16, **settings)
        self.states = states

    def forward(self, x: torch.Tensor, h: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        if h is None:
            y, last = self.layer(x)
        else:
            y, last = self.layer(x, (h, 0.5 * h) if self.states == 2 else h)
        return (y, *(last if isinstance(last, tuple) else (last,)))

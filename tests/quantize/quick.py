"""Short ways to trace, calibrate and quantize a module in these tests."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from burnish.core import Choices
from burnish.graph import Traced, operator_names, trace
from burnish.quantize import QuantizeStatic, Statistics, calibrate, coverage, fold

Call = tuple[torch.Tensor, ...]


def folded(model: nn.Module, *example: torch.Tensor) -> Traced:
    """The model traced and its batch-norms folded."""
    return fold(trace(model.eval(), example))


def seen(model: Traced, *calls: Call) -> Statistics:
    """Calibrated with these calls."""
    return calibrate(model, calls)


def quantized(
    model: Traced, statistics: Statistics, runtime: str = "onnxruntime", **settings
) -> tuple[Traced, Choices]:
    """The simulated graph and the choices behind it."""
    step = QuantizeStatic(runtime, **settings)
    choices = step.choose_from(model, statistics)
    result = step.rewrite(model, choices)
    assert isinstance(result, Traced)
    return result, choices


def states(choices: Choices) -> dict[str, str]:
    """The state of each operator."""
    return {row.operator: row.state for row in coverage(choices)}


def reasons(choices: Choices) -> dict[str, str]:
    """The reason for each operator's state."""
    return {row.operator: row.reason for row in coverage(choices)}


def float_operators(model: Traced) -> list[str]:
    """The names of all operators of a graph that give floats."""

    def floats(value: object) -> bool:
        parts: Sequence[object] = value if isinstance(value, list | tuple) else [value]
        return any(isinstance(p, torch.Tensor) and p.is_floating_point() for p in parts)

    return [
        name
        for node, name in operator_names(model.graph_module).items()
        if node.op == "call_function" and floats(node.meta.get("val"))
    ]

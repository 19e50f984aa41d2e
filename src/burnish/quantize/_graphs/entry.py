"""How a model and its data come into every step of this room, and what a plan is held against.

A step's function takes a module and batches of any form; its `choose_from` a folded float graph;
its `rewrite` a module or a graph, and a plan. What all of them ask on the way stands here once.

Left out: what only one step asks; that stands with the step.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import torch
from torch import fx, nn

from burnish.core import Choices
from burnish.errors import InvalidInput
from burnish.goal import Goal, Inputs
from burnish.graph import (
    DEQUANTIZE,
    DEQUANTIZE_BLOCKS,
    DYNAMIC,
    FAKE,
    QUANTIZE,
    Traced,
    flatten_call,
    fold_batch_norm,
    operator_names,
    retrace,
    trace,
)

Call = tuple[torch.Tensor, ...]


def fold(traced: Traced, *, share: bool = False) -> Traced:
    """A copy with batch-norm folded into the operators before it.

    With `share` it reads the tensors of `traced` that folding leaves alone, and nobody may write
    into them.
    """
    folded = traced.copy(share=share)
    fold_batch_norm(folded.graph_module)
    return folded


def trace_for(model: nn.Module, goal: Goal, *, share: bool = False) -> Traced:
    """Trace a model with the goal's example call."""
    return trace_inputs(model, goal.task.inputs, share=share)


def trace_inputs(model: nn.Module, inputs: Inputs, *, share: bool = False) -> Traced:
    """Trace a model with an example call; a batch of 1 is tiled to 2. `share` as of `trace`."""
    return trace(model, *inputs.to_trace(), share=share)


def calibration_calls(goal: Goal) -> Iterator[Call]:
    """The calibration data as flat calls."""
    for call in goal.task.calls("calibration"):
        yield flatten_call(call.args, call.kwargs)


def folded_with_calls(
    who: str, model: nn.Module, calibration: Iterable[Any], *, share: bool = False
) -> tuple[Traced, Iterator[Call]]:
    """As `traced_with_calls`, with batch-norms folded."""
    traced, calls = traced_with_calls(who, model, calibration, share=share)
    return fold(traced, share=share), calls


def traced_with_calls(
    who: str, model: nn.Module, calibration: Iterable[Any], *, share: bool = False
) -> tuple[Traced, Iterator[Call]]:
    """The graph of a model traced with the first batch, and all batches as flat calls.

    Iterates the batches once. InvalidInput, naming the function `who`, where there is none.
    """
    batches = iter(calibration)
    first = next(batches, None)
    if first is None:
        raise InvalidInput(f"{who}: the calibration data is empty: give one batch at least")
    traced = trace_inputs(model, Inputs.of(first), share=share)
    calls = (Inputs.of(batch) for batch in itertools.chain([first], batches))
    return traced, (flatten_call(call.args, call.kwargs) for call in calls)


def float_graph(model: nn.Module, choices: Choices, *, share: bool = False) -> Traced:
    """A folded copy of the graph that `choices` were made for, without data: for `rewrite`.

    With `share` it reads the model's own tensors, and nobody may write into them.
    """
    call = choices.plan["call"]
    traced = model if isinstance(model, Traced) else retrace(model, call, share=share)
    return fold(traced, share=share)


def refuse_quantized(traced: Traced, who: str) -> None:
    """InvalidInput, naming the step `who`, for a graph that holds our quantizing operators."""
    for node, name in operator_names(traced.graph_module).items():
        if node.target in FAKE:
            raise InvalidInput(
                f"{who}: the model is prepared for quantization-aware training ({name}): train it "
                "and apply ConvertQat, or give the float model"
            )
        if node.target in {QUANTIZE, DEQUANTIZE, DEQUANTIZE_BLOCKS, *DYNAMIC}:
            raise InvalidInput(
                f"{who}: the model is quantized already ({name}): give the float model, from "
                "before it was quantized"
            )


def planned(module: fx.GraphModule, names: Iterable[str]) -> dict[str, fx.Node]:
    """The nodes of a graph by name. InvalidInput where a plan names one it does not have."""
    nodes = {name: node for node, name in operator_names(module).items()}
    check_planned(nodes, names)
    return nodes


def check_planned(known: Collection[str], names: Iterable[str]) -> None:
    """InvalidInput where a plan names what the model does not have."""
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InvalidInput(
            f"this plan names operators the model does not have ({', '.join(unknown[:3])}): it "
            "belongs to another model"
        )

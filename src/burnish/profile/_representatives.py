"""A few operators that stand for a model: those in which most of its time goes.

Convolutions and linear layers of one shape cost the same, so a model of fifty layers has some
twenty shapes, of which a handful take nearly all the time. These stand side by side in a graph of
their own, in float, in int8 and at half their width, and are timed in the runtime itself: a second
of work tells what a change would do to the model.

In int8 each of them is quantized as `quantize` would (uint8 activations, int8 weights with a scale
for each output channel, int32 biases) and quantizes its result, as between layers of a network; the
numbers are made up, since only the time counts. Linear layers stand on two axes.

Left out: recurrent layers and products of two activations, which static int8 leaves in float.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from burnish.graph import (
    DEQUANTIZE,
    PER_TENSOR,
    QUANTIZE,
    Traced,
    add_tensor,
    finish,
    operator,
    tensor_of,
)
from burnish.profile._latency_family import place, resized
from burnish.profile._shape import OPERANDS, OpShape

KINDS = ("linear", "conv1d", "conv2d", "conv3d")
_MOST = 8
_ENOUGH = 0.9  # of the time in such operators
_ZERO_POINT = 128
_STEP = 4 / 128  # an int8 step of activations of about [-4, 4]
_FEWEST_CHANNELS = 8  # fewer are an image's colours or the like: no width to halve


@dataclass(frozen=True)
class Representative:
    """One shape, and the operators of the model that have it."""

    shape: OpShape
    names: tuple[str, ...]


def representatives(
    shapes: Mapping[str, OpShape], seconds: Mapping[str, float]
) -> tuple[Representative, ...]:
    """The shapes in which most time goes, the costliest first; () where there are none.

    Args:
        shapes: every operator of the model by its name.
        seconds: what operators take, in any unit.
    """
    groups: dict[OpShape, list[str]] = {}
    for name, shape in shapes.items():
        if weighted(shape):
            groups.setdefault(_flat(shape), []).append(name)
    found = [Representative(shape, tuple(names)) for shape, names in groups.items()]
    taken = {one: math.fsum(seconds.get(name, 0.0) for name in one.names) for one in found}
    enough = _ENOUGH * math.fsum(taken.values())
    chosen: list[Representative] = []
    for one in sorted(found, key=lambda one: -taken[one]):
        if len(chosen) == _MOST or math.fsum(taken[it] for it in chosen) > enough:
            break
        chosen.append(one)
    return tuple(chosen)


def weighted(shape: OpShape) -> bool:
    """Whether static int8 has something to do there: a layer with a stored weight."""
    return shape.kind in KINDS and str(shape.setting(OPERANDS, "")).startswith("iw")


def _flat(shape: OpShape) -> OpShape:
    if shape.kind != "linear":
        return shape
    (data,), (result,) = shape.inputs, shape.outputs
    rows = math.prod(data[:-1])
    return dataclasses.replace(shape, inputs=((rows, data[-1]),), outputs=((rows, result[-1]),))


def halved(shape: OpShape) -> OpShape:
    """The layer with half its channels or features, in and out (but for an image's colours)."""
    widths = tuple(w if w < _FEWEST_CHANNELS else w // 2 for w in place(shape).widths)
    return resized(shape, widths)


def in_int8(model: Traced) -> Traced:
    """A copy of a graph whose convolutions and linear layers run in int8 on made-up ranges."""
    copied = model.copy()
    module = copied.graph_module
    scale = _at_start(module, "step", torch.tensor(_STEP))
    zero = _at_start(module, "zero", torch.tensor(_ZERO_POINT, dtype=torch.uint8))
    for node in list(module.graph.nodes):
        if node.op == "call_function" and operator(node) in KINDS:
            _quantize(module, node, scale, zero)
    finish(module)
    return copied


def _at_start(module: fx.GraphModule, name: str, tensor: torch.Tensor) -> fx.Node:
    """A stored tensor that every operator may read."""
    first = next(node for node in module.graph.nodes if node.op != "placeholder")
    with module.graph.inserting_before(first):
        return add_tensor(module, name, tensor)


def _quantize(module: fx.GraphModule, node: fx.Node, scale: fx.Node, zero: fx.Node) -> None:
    graph = module.graph
    weight = tensor_of(module, node.args[1])
    assert weight is not None, node
    steps = weight.abs().flatten(1).amax(1).clamp(min=1e-6) / 127
    along = steps.reshape(-1, *[1] * (weight.dim() - 1))
    with graph.inserting_before(node):
        read = _through(graph, node.args[0], scale, zero)
        stored = _stored(module, (weight / along).round().to(torch.int8), steps)
        args = [read, stored, *node.args[2:]]
        bias = tensor_of(module, args[2]) if len(args) > 2 else None
        if bias is not None:
            fine = steps * _STEP
            args[2] = _stored(module, (bias / fine).round().to(torch.int32), fine)
    node.args = tuple(args)
    with graph.inserting_after(node):
        quantized = graph.call_function(QUANTIZE, (node, scale, zero, PER_TENSOR))
    with graph.inserting_after(quantized):
        result = graph.call_function(DEQUANTIZE, (quantized, scale, zero, PER_TENSOR))
    node.replace_all_uses_with(result, delete_user_cb=lambda user: user is not quantized)


def _through(graph: fx.Graph, value: Any, scale: fx.Node, zero: fx.Node) -> fx.Node:
    quantized = graph.call_function(QUANTIZE, (value, scale, zero, PER_TENSOR))
    return graph.call_function(DEQUANTIZE, (quantized, scale, zero, PER_TENSOR))


def _stored(module: fx.GraphModule, integers: torch.Tensor, steps: torch.Tensor) -> fx.Node:
    """Integers behind a dequantizer with a scale for each of their first axis."""
    scales = add_tensor(module, "steps", steps)
    zeros = add_tensor(module, "zeros", torch.zeros(len(steps), dtype=integers.dtype))
    values = add_tensor(module, "integers", integers)
    return module.graph.call_function(DEQUANTIZE, (values, scales, zeros, 0))

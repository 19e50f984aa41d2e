"""LSTM and GRU layers of an exported graph, read into the form that runtimes store them in.

torch keeps four tensors for each layer and direction, runtimes one of each kind for a layer, with
the gates in ONNX's order. `read` takes a node of the graph apart, or says in a sentence why it has
to stay; `replace` puts any number of new operators, one for a layer, in its place: time comes first
in between, each layer starts from its slice of the first states, and the last states are joined.

Left out: projections (`proj_size`), packed sequences, single cells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from burnish.graph import operator, tensor_of

aten = torch.ops.aten
# Gates in ONNX's order, by their place in torch's: input, forget, cell, output for an LSTM and
# reset, update, new for a GRU.
_ORDER = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}
_PLAIN = {aten.lstm.input, aten.gru.input}


@dataclass(frozen=True)
class Layer:
    """One layer: w [D, gates hidden, in], r [D, gates hidden, hidden], bias [D, 2 gates hidden]."""

    w: torch.Tensor
    r: torch.Tensor
    bias: torch.Tensor


@dataclass(frozen=True)
class Recurrent:
    """An LSTM or GRU node: what it reads, and its layers."""

    kind: str
    x: fx.Node
    states: tuple[fx.Node, ...]
    layers: tuple[Layer, ...]
    batch_first: bool

    @property
    def directions(self) -> int:
        """1, or 2 where it is bidirectional."""
        return int(self.layers[0].w.shape[0])


def refusal(module: fx.GraphModule, node: fx.Node) -> str:
    """Why a recurrent node has to stay in float; "" where it can be taken apart."""
    if node.target not in _PLAIN:
        return "packed sequences: only whole tensors are quantized"
    params = [tensor_of(module, param) for param in _params(node)]
    if any(param is None for param in params):
        return "its weights are computed, not stored"
    if any(param is not None and param.dtype != torch.float32 for param in params):
        return "its weights are not float32"
    if operator(node) == "lstm" and len(params) != _num_params(node):
        return "its hidden state is projected (proj_size)"
    if node.args[-3]:
        return "in train mode"
    return ""


def read(module: fx.GraphModule, node: fx.Node) -> Recurrent:
    """Take apart a node that `refusal` has nothing against."""
    kind = operator(node)
    x, states, _, has_biases, num_layers, *_, twice, batch_first = node.args
    params = [tensor_of(module, param) for param in _params(node)]
    step = 4 if has_biases else 2
    sides = [
        _side(kind, [p.detach() for p in params[start : start + step] if p is not None])
        for start in range(0, len(params), step)
    ]
    count = 2 if twice else 1
    assert isinstance(num_layers, int)
    layers = tuple(
        Layer(*(torch.stack(parts) for parts in zip(*sides[at : at + count], strict=True)))
        for at in range(0, num_layers * count, count)
    )
    assert isinstance(x, fx.Node)
    listed: Any = states if isinstance(states, list | tuple) else [states]
    return Recurrent(kind, x, tuple(listed), layers, bool(batch_first))


def _params(node: fx.Node) -> list[Any]:
    found: Any = node.args[2]
    return list(found)


def _num_params(node: fx.Node) -> int:
    has_biases, num_layers, twice = node.args[3], node.args[4], node.args[7]
    assert isinstance(num_layers, int)
    return (4 if has_biases else 2) * num_layers * (2 if twice else 1)


def _side(kind: str, params: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    w, r, *biases = params
    if not biases:
        biases = [w.new_zeros(w.shape[0])] * 2
    order = _ORDER[kind]

    def reordered(tensor: torch.Tensor) -> torch.Tensor:
        gates = tensor.chunk(len(order))
        return torch.cat([gates[place] for place in order])

    return reordered(w), reordered(r), torch.cat([reordered(bias) for bias in biases])


# Given the input and first states of a layer, and its number: its output [time, batch, D hidden]
# and its last states.
Build = Callable[[fx.Node, list[fx.Node], int], list[fx.Node]]


def replace(module: fx.GraphModule, node: fx.Node, found: Recurrent, build: Build) -> None:
    """Put one new operator for each layer in the place of a recurrent node."""
    graph, count = module.graph, found.directions
    before = set(graph.nodes)
    call = graph.call_function
    with graph.inserting_before(node):
        x = call(aten.transpose.int, (found.x, 0, 1)) if found.batch_first else found.x
        last: list[list[fx.Node]] = [[] for _ in found.states]
        for index in range(len(found.layers)):
            edges = (0, index * count, (index + 1) * count)
            first = [call(aten.slice.Tensor, (state, *edges)) for state in found.states]
            x, *ends = build(x, first, index)
            for states, end in zip(last, ends, strict=True):
                states.append(end)
        y = call(aten.transpose.int, (x, 0, 1)) if found.batch_first else x
        results = [y, *(call(aten.cat.default, (states, 0)) for states in last)]
    kept = {key: node.meta.get(key) for key in ("nn_module_stack", "burnish")}
    for new in graph.nodes:
        if new not in before:
            new.meta.update(kept)
    for user in list(node.users):
        number = user.args[1]
        assert isinstance(number, int), f"{node.name} is read whole"
        user.replace_all_uses_with(results[number])
        graph.erase_node(user)
    graph.erase_node(node)

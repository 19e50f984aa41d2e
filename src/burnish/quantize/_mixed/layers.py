"""The layers that mixed precision decides about, and what stands between them.

A layer is an operator with weights or a product: what precision is chosen for. Everything else
(activations, additions, pooling, normalisation) *follows* a layer: of those it reads from, the last
in the graph. A follower's time and its share of the loss are its leader's, since placement gives it
the form of what it reads. Where a value goes from one leader to another, it is converted if their
forms differ; how many elements that are is the size of the seam.

What a layer can be is read off the plans in which every layer is quantized: `QuantizeStatic` for
int8, `QuantizeWeights` for int4 weights. A precision that a layer cannot have is kept with the
reason those plans give.

Left out: followers that could be decided on their own (a softmax in int8).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from burnish.graph import Traced, operator, operator_names, tensor_of
from burnish.quantize._graphs.coverage import INT8, Coverage
from burnish.quantize._graphs.node import is_float
from burnish.quantize._graphs.policy import PRODUCTS, WEIGHTED

RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})
MATMULS = PRODUCTS | {"mm", "addmm", "baddbmm"}


@dataclass(frozen=True)
class Layer:
    """One layer: its operator's name and kind, what follows it, and its weights.

    `shape` is that of its largest stored tensor, () where it stores none; `refused` holds the
    reason for each precision it cannot have.
    """

    name: str
    kind: str
    followers: tuple[str, ...]
    shape: tuple[int, ...]
    refused: Mapping[str, str]


Between = Mapping[tuple[str, str], int]


def layers_of(
    folded: Traced, plans: Mapping[str, Sequence[Coverage]], states: Mapping[str, str]
) -> tuple[Layer, ...]:
    """The layers of a folded graph, in its order.

    Args:
        folded: the float graph.
        plans: for each precision that changes the graph, the coverage table of the plan in which
            every layer has it.
        states: the word for it in that table.
    """
    module = folded.graph_module
    names = operator_names(module)
    rows = {p: {row.operator: row for row in table} for p, table in plans.items()}
    leaders = _leaders(
        names, [node for node in names if _decides(module, node, names, rows, states)]
    )
    found = []
    for node in dict.fromkeys(leaders.values()):
        name = names[node]
        refused = {
            precision: _reason(table.get(name), precision)
            for precision, table in rows.items()
            if not _is(table.get(name), states[precision])
        }
        followers = tuple(
            names[n] for n, leader in leaders.items() if leader is node and n is not node
        )
        found.append(Layer(name, operator(node), followers, _weight_shape(module, node), refused))
    return tuple(found)


def _decides(
    module: fx.GraphModule,
    node: fx.Node,
    names: Mapping[fx.Node, str],
    rows: Mapping[str, Mapping[str, Coverage]],
    states: Mapping[str, str],
) -> bool:
    """Whether a precision is chosen for the node itself."""
    if node.op != "call_function":
        return False
    if operator(node) in WEIGHTED | RECURRENT | MATMULS:
        return True
    packed = [p for p in rows if states[p] != INT8]
    return any(_is(rows[p].get(names[node]), states[p]) for p in packed)


def _is(row: Coverage | None, state: str) -> bool:
    return row is not None and row.state == state


def _reason(row: Coverage | None, precision: str) -> str:
    if row is None:
        return f"holds nothing that could be {precision}"
    return row.reason or f"{row.state}, not {precision}"


def _leaders(names: Mapping[fx.Node, str], layers: Sequence[fx.Node]) -> dict[fx.Node, fx.Node]:
    """The layer that each computed node belongs to; what comes before all belongs to the first."""
    order = {node: index for index, node in enumerate(names)}
    chosen, leaders = set(layers), dict[fx.Node, fx.Node]()
    if not layers:
        return leaders
    for node in names:
        if node.op != "call_function":
            continue
        before = [leaders[s] for s in node.all_input_nodes if s in leaders]
        last = max(before, key=order.__getitem__, default=layers[0])
        leaders[node] = node if node in chosen else last
    return leaders


def between(folded: Traced, layers: Sequence[Layer]) -> dict[tuple[str, str], int]:
    """The elements that go from one layer (with its followers) to another, in the traced sizes.

    A value that several operators of one layer read counts once.
    """
    names = operator_names(folded.graph_module)
    owner = {name: layer.name for layer in layers for name in (layer.name, *layer.followers)}
    found: dict[tuple[str, str], int] = {}
    seen: set[tuple[fx.Node, str]] = set()
    for node, name in names.items():
        mine = owner.get(name)
        for source in node.all_input_nodes if mine is not None else ():
            theirs = owner.get(names.get(source, ""))
            if theirs is None or theirs == mine or not is_float(source):
                continue
            assert mine is not None
            if (source, mine) not in seen:
                seen.add((source, mine))
                pair = (theirs, mine)
                found[pair] = found.get(pair, 0) + _elements(source)
    return found


def _elements(node: fx.Node) -> int:
    value = node.meta["val"]
    parts = value if isinstance(value, list | tuple) else [value]
    return sum(
        math.prod(_hint(size) for size in part.shape)
        for part in parts
        if isinstance(part, torch.Tensor)
    )


def _hint(size: Any) -> int:
    """A size, or the one that a dynamic axis was traced with."""
    if isinstance(size, int):
        return size
    hint = size.node.hint
    return int(hint) if hint is not None else 1


def _weight_shape(module: fx.GraphModule, node: fx.Node) -> tuple[int, ...]:
    """The shape of the largest tensor a node reads from the graph."""
    stored = [tensor_of(module, source) for source in node.all_input_nodes]
    shapes = [tuple(tensor.shape) for tensor in stored if tensor is not None and tensor.dim() > 1]
    return max(shapes, key=math.prod, default=())


def stored_bytes(folded: Traced, layer: Layer, precision: str, block_size: int) -> float:
    """The bytes of a layer's stored tensors in a precision, scales and zero points included.

    int8 has a float32 scale and an int8 zero point for each row of the weight; int4 half a byte for
    each element and a float32 scale with half a byte of zero point for each block.
    """
    module = folded.graph_module
    node = {name: node for node, name in operator_names(module).items()}[layer.name]
    stored = [t for s in node.all_input_nodes if (t := tensor_of(module, s)) is not None]
    total = 0.0
    for tensor in stored:
        num, rows = tensor.numel(), tensor.shape[0] if tensor.dim() > 1 else 0
        if precision == "int8" and rows:
            total += num + 5 * rows
        elif precision == "int4" and rows:
            width = num // rows
            total += num / 2 + 4.5 * rows * math.ceil(width / block_size)
        else:
            total += num * tensor.element_size()
    return total

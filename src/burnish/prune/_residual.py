"""Residual blocks in a traced graph: what a sum adds to a value that could pass by unchanged.

An addition is the end of a residual block where one of its operands, the *skip*, is an earlier
value x (or x without anything learnt: strided, padded, pooled), and the other, the *branch*, is
computed from x, by at least one layer with weights, and read by nothing but the sum. Without the
block the sum is its skip.

Where x has gone through an activation or a normalisation, and the sum goes through one of the same
kind at once (a ResNet's relu, the layer norm of a transformer that normalises after the sum), that
one ends the block: x has had its own already.

Left out: blocks whose shortcut has weights (they change the size of what flows); blocks joined by
concatenation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from burnish.graph import Traced, operator, operator_names, tensor_of

_SUMS = frozenset({"add", "add_"})
# What a shortcut may do and still hold nothing learnt.
_FREE = frozenset(
    {
        *("alias", "avg_pool1d", "avg_pool2d", "clone", "constant_pad_nd", "contiguous"),
        *("dropout", "max_pool2d", "pad", "slice", "to", "_to_copy"),
    }
)
_AFTER = frozenset(
    {
        *("batch_norm", "gelu", "group_norm", "hardswish", "hardtanh", "layer_norm"),
        *("leaky_relu", "relu", "relu_", "relu6", "rms_norm", "silu"),
    }
)


@dataclass(frozen=True, eq=False)
class ResidualBlock:
    """A residual block: its name, that of its sum; the value it ends in, and what passes by.

    `skip` takes the place of `end`; `source` is where the branch leaves. `nodes` are what is
    computed for the block alone, `layers` the names of those among them that hold weights.
    """

    name: str
    layers: tuple[str, ...]
    source: fx.Node
    skip: fx.Node
    end: fx.Node
    nodes: frozenset[fx.Node]


def residual_blocks(traced: Traced) -> tuple[ResidualBlock, ...]:
    """The residual blocks of a graph, in its order. One may lie within another."""
    module = traced.graph_module
    names = operator_names(module)
    order = {node: index for index, node in enumerate(module.graph.nodes)}
    found = []
    for node in module.graph.nodes:
        if node.op != "call_function" or operator(node) not in _SUMS or len(node.args) < 2:
            continue
        one, other = node.args[:2]
        if not (isinstance(one, fx.Node) and isinstance(other, fx.Node)) or node.kwargs:
            continue
        for skip, branch in ((one, other), (other, one)):
            parts = _branch(skip, branch, node, order)
            if parts is None:
                continue
            source, inside = parts
            layers = tuple(n for n in names if n in inside and _holds_weights(traced, n))
            end = _end(node, source)
            if layers and _same_size(skip, end):
                whole = inside | {node, end}
                named = tuple(names[layer] for layer in layers)
                found.append(ResidualBlock(names[node], named, source, skip, end, frozenset(whole)))
                break
    return tuple(found)


def _branch(
    skip: fx.Node, branch: fx.Node, total: fx.Node, order: dict[fx.Node, int]
) -> tuple[fx.Node, frozenset[fx.Node]] | None:
    """Where the branch leaves the skip, and what it computes; None where it is no branch of it."""
    for source in _before(skip):
        inside = _between(source, branch, order)
        if not inside:
            continue
        own = inside | {total}
        # Tensors and inputs from elsewhere (an attention's mask) may come in; nothing goes out.
        if all(user in own for node in inside for user in node.users):
            return source, inside
        return None
    return None


def _before(skip: fx.Node) -> Iterator[fx.Node]:
    """The skip, and what it was before anything that holds no weights."""
    yield skip
    node = skip
    while node.op == "call_function" and operator(node) in _FREE:
        before = node.args[0]
        assert isinstance(before, fx.Node)
        node = before
        yield node


def _between(source: fx.Node, last: fx.Node, order: dict[fx.Node, int]) -> frozenset[fx.Node]:
    """The nodes on all ways from `source` to `last`, without the first."""
    behind, waiting = set(), [last]
    while waiting:
        node = waiting.pop()
        if node in behind or order[node] <= order[source]:
            continue
        behind.add(node)
        waiting += node.all_input_nodes
    ahead = {source}
    for node in sorted(behind, key=order.__getitem__):
        if any(before in ahead for before in node.all_input_nodes):
            ahead.add(node)
    return frozenset(ahead - {source}) if last in ahead else frozenset()


def _end(total: fx.Node, source: fx.Node) -> fx.Node:
    """The sum, or what follows it where the source has been through the same."""
    users = list(total.users)
    if len(users) != 1 or users[0].op != "call_function" or source.op != "call_function":
        return total
    after = operator(users[0])
    return users[0] if after in _AFTER and after == operator(source) else total


def _holds_weights(traced: Traced, node: fx.Node) -> bool:
    tensors = (tensor_of(traced.graph_module, other) for other in node.all_input_nodes)
    return any(tensor is not None and tensor.dim() > 1 for tensor in tensors)


def _same_size(one: fx.Node, other: fx.Node) -> bool:
    return [str(size) for size in one.meta["val"].shape] == [
        str(size) for size in other.meta["val"].shape
    ]

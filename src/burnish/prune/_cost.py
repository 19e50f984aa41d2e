"""What a graph costs without some of its channels: parameters, bytes, multiply-accumulates.

Each tensor, and each operator that multiplies, is a number times the channels that live on some
axes: a convolution is its pixels times its window, times its outputs, times its inputs. So what a
set of removals costs is known without shrinking anything.

MACs are of one sample, of convolutions, linear layers, products of matrices, attention and
recurrent layers; other operators count nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import fx, nn

from burnish.graph import Channels, operator, tensor_of

Alive = npt.NDArray[np.bool_]
COSTS = ("parameters", "bytes", "macs")


@dataclass(frozen=True, eq=False)
class Term:
    """A number times the living ids of each of some axes, spent for some nodes of the graph."""

    factor: float
    axes: tuple[npt.NDArray[np.int64], ...]
    nodes: frozenset[fx.Node] = frozenset()

    def at(self, alive: Alive) -> float:
        """Its value."""
        return self.factor * math.prod(int(alive[ids].sum()) for ids in self.axes)


@dataclass(frozen=True, eq=False)
class Cost:
    """A sum of terms."""

    terms: tuple[Term, ...]

    def at(self, alive: Alive, without: Collection[fx.Node] = ()) -> float:
        """What the graph costs with these ids, where some nodes are not computed."""
        gone = frozenset(without)
        return sum(term.at(alive) for term in self.terms if not gone or not term.nodes <= gone)


def cost_of(channels: Channels, of: str) -> Cost:
    """The terms of one kind of cost, a member of `COSTS`."""
    if of == "macs":
        return Cost(tuple(_macs(channels)))
    return Cost(tuple(_stored(channels, of == "bytes")))


def _stored(channels: Channels, in_bytes: bool) -> Iterator[Term]:
    seen: set[str] = set()
    module = channels.traced.graph_module
    readers: dict[str, set[fx.Node]] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            readers.setdefault(str(node.target), set()).update(node.users)
    for node in module.graph.nodes:
        tensor = tensor_of(module, node)
        if tensor is None or str(node.target) in seen:
            continue
        seen.add(str(node.target))
        if not in_bytes and not isinstance(tensor, nn.Parameter):
            continue
        labels = channels.labels(node)
        sizes = [s for s, ids in zip(tensor.shape, labels, strict=True) if ids is None]
        factor = math.prod(sizes) * (tensor.element_size() if in_bytes else 1)
        axes = tuple(ids for ids in labels if ids is not None)
        yield Term(factor, axes, frozenset(readers[str(node.target)]))


def _macs(channels: Channels) -> Iterator[Term]:
    for node in channels.traced.graph_module.graph.nodes:
        rule = _RULES.get(operator(node)) if node.op == "call_function" else None
        if rule is not None:
            for term in rule(channels, node):
                yield dataclasses.replace(term, nodes=frozenset({node}))


def _term(channels: Channels, *parts: tuple[Any, Sequence[int]]) -> Term:
    """The product of some axes of some tensors."""
    factor, axes = 1.0, []
    for node, chosen in parts:
        labels = channels.labels(node)
        shape = node.meta["val"].shape
        for axis in chosen:
            ids = labels[axis]
            if ids is None:
                factor *= _of_one_sample(shape[axis])
            else:
                axes.append(ids)
    return Term(factor, tuple(axes))


def _of_one_sample(size: Any) -> float:
    """A size where every dynamic one is 1."""
    if isinstance(size, int):
        return float(size)
    expression = size.node.expr
    return float(expression.subs(dict.fromkeys(expression.free_symbols, 1)))


def _convolution(channels: Channels, node: fx.Node) -> list[Term]:
    weight: Any = node.args[1]
    inner = range(1, len(weight.meta["val"].shape))
    return [_term(channels, (node, range(node.meta["val"].dim())), (weight, inner))]


def _transposed(channels: Channels, node: fx.Node) -> list[Term]:
    """Every input pixel times the window, times the outputs of its group."""
    source, weight = _two(node)
    inner = range(1, len(weight.meta["val"].shape))
    return [_term(channels, (source, range(source.meta["val"].dim())), (weight, inner))]


def _linear(channels: Channels, node: fx.Node) -> list[Term]:
    source, _ = _two(node)
    rank = source.meta["val"].dim()
    return [_term(channels, (node, range(node.meta["val"].dim())), (source, [rank - 1]))]


def _product(channels: Channels, node: fx.Node) -> list[Term]:
    source: Any = node.args[-2]
    rank = source.meta["val"].dim()
    return [_term(channels, (node, range(node.meta["val"].dim())), (source, [rank - 1]))]


def _attention(channels: Channels, node: fx.Node) -> list[Term]:
    query, key = _two(node)
    value: Any = node.args[2]
    rank = query.meta["val"].dim()
    scores = range(rank - 1)
    return [
        _term(channels, (query, range(rank)), (key, [rank - 2])),
        _term(channels, (query, scores), (key, [rank - 2]), (value, [rank - 1])),
    ]


def _recurrent(channels: Channels, node: fx.Node) -> list[Term]:
    """All matrices, once for each step."""
    source: Any = node.args[0]
    steps = math.prod(_of_one_sample(size) for size in source.meta["val"].shape[:-1])
    names = [formal.name for formal in node.target._schema.arguments]  # type: ignore[union-attr]
    tensors: Any = node.args[names.index("params")]
    terms = [_term(channels, (t, range(2))) for t in tensors if t.meta["val"].dim() == 2]
    return [Term(term.factor * steps, term.axes) for term in terms]


def _two(node: fx.Node) -> tuple[fx.Node, fx.Node]:
    first, second = node.args[:2]
    assert isinstance(first, fx.Node)
    assert isinstance(second, fx.Node)
    return first, second


_RULES: Mapping[str, Callable[[Channels, fx.Node], list[Term]]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed),
    "linear": _linear,
    **dict.fromkeys(("matmul", "mm", "bmm", "addmm", "baddbmm"), _product),
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
}

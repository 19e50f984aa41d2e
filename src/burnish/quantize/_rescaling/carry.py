"""Which channel of an operator becomes which channel of a value further on.

Scaling the channels of a value changes nothing if the operator that makes them is scaled and the
one that reads them unscaled. Between the two may stand what commutes with a positive factor per
channel: moves, ReLU and LeakyReLU, pooling, padding with zeros, and attention, whose result is a
mean of its values. Moves may shuffle channels, split heads or repeat them, so the map is not
guessed: the operators between are run on numbers that say which channel they came from.

What else reads a value on the way must not read the same channels (the queries and keys of a
projection that makes all three), else the path is refused, with the reason.

Left out: paths that fork and join again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from burnish.graph import Traced, operator, tensor_of
from burnish.quantize._graphs.node import is_padding, is_spatial_mean, pads_with_zero, readers
from burnish.quantize._graphs.patterns import attention
from burnish.quantize._graphs.policy import CONVOLUTIONS, MOVES, TRANSPOSED

SOURCES = CONVOLUTIONS | TRANSPOSED | {"linear", "layer_norm", "rms_norm"}
RECTIFIERS = frozenset({"relu", "leaky_relu"})
_POOLS = frozenset({f"{kind}_pool{d}d" for kind in ("avg", "adaptive_avg") for d in (1, 2, 3)})
_SAME = frozenset({"to", "_to_copy", "alias", "dropout"})
_TAKES_APART = frozenset({"getitem", "select", "slice", "narrow"})
_FUSED = "scaled_dot_product_attention"
_LONGEST = 24


@dataclass(frozen=True)
class Path:
    """`source` makes the channels, `steps` carry them, the last step (or the source) is the value.

    `others` are readers on the way that the path does not go through.
    """

    source: fx.Node
    steps: tuple[fx.Node, ...]
    others: tuple[fx.Node, ...]

    @property
    def value(self) -> fx.Node:
        """The value at the end."""
        return self.steps[-1] if self.steps else self.source


class Paths:
    """The paths of one graph."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self.mixes = attention(module).mixes

    def to(self, value: fx.Node) -> Path | str:
        """The path that ends in `value`, or why there is none."""
        steps: list[fx.Node] = []
        others: list[fx.Node] = []
        node = value
        while len(steps) <= _LONGEST:
            if node.op != "call_function":
                return "nothing with weights stands in front"
            kind = operator(node)
            if kind in SOURCES:
                return Path(node, tuple(reversed(steps)), tuple(others))
            before = self._before(node, kind)
            if before is None:
                return f"{kind} before it does not commute with a factor per channel"
            steps.append(node)
            others += [reader for reader in readers(before) if reader is not node]
            node = before
        return "the path to what makes its channels is too long"

    def _before(self, node: fx.Node, kind: str) -> fx.Node | None:
        """What carries the channels into `node`; None where it does not commute."""
        if kind == _FUSED:
            source = node.args[2]
        elif node in self.mixes:
            # softmax · V; V · softmax would mix channels.
            source = node.args[1] if not _is_softmax_side(node.args[1]) else None
        elif is_padding(node) and not pads_with_zero(node):
            source = None
        elif kind == "mean":
            source = node.args[0] if is_spatial_mean(node) else None
        elif kind in MOVES | RECTIFIERS | _POOLS | _SAME:
            source = node.args[0]
        else:
            return None
        return source if isinstance(source, fx.Node) else None


def _is_softmax_side(node: Any) -> bool:
    while isinstance(node, fx.Node) and operator(node) in MOVES | _SAME:
        node = node.args[0]
    return isinstance(node, fx.Node) and operator(node).endswith("softmax")


def channel_axis(node: fx.Node) -> int:
    """The axis of an operator's channels in its result, from the end."""
    kind = operator(node)
    return -1 - int(kind[-2]) if kind in CONVOLUTIONS | TRANSPOSED else -1


class _Keeper(fx.Interpreter):
    """Runs a graph and keeps what was asked for."""

    def __init__(self, module: fx.GraphModule, wanted: set[fx.Node]) -> None:
        super().__init__(module)
        self.wanted = wanted
        self.kept: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self.wanted:
            self.kept[n] = value
        return value


def follow(
    traced: Traced, paths: Iterable[tuple[Path, int]], call: tuple[torch.Tensor, ...]
) -> list[torch.Tensor | str]:
    """Where the channels of each path's end come from.

    Args:
        traced: the graph.
        paths: each with the axis of the channels at its end.
        call: inputs to run it on once.

    Returns:
        For each path int64 [channels at its end], the source's channel each is; or the reason why
        that cannot be said.
    """
    listed = list(paths)
    wanted: set[fx.Node] = set()
    for path, _ in listed:
        wanted.add(path.source)
        for node in (*path.steps, *path.others):
            wanted |= set(node.all_input_nodes)
    keeper = _Keeper(traced.graph_module, wanted)
    with torch.inference_mode():
        keeper.run(*call)
        return [_follow(path, axis, keeper.kept) for path, axis in listed]


def _follow(path: Path, axis: int, kept: dict[fx.Node, Any]) -> torch.Tensor | str:
    made = kept[path.source]
    at = channel_axis(path.source)
    shape = [1] * made.dim()
    shape[at] = made.shape[at]
    # 0 is what padding puts in.
    values = {path.source: torch.arange(1.0, made.shape[at] + 1).reshape(shape).expand_as(made)}
    for node in path.steps:
        values[node] = _run(node, values, kept)
    found = _constant_along(values[path.value], axis)
    if found is None:
        return "the channels it reads are mixed with one another"
    for other in path.others:
        if operator(other) not in _TAKES_APART:
            return f"{operator(other)} reads the same values"
        part = _run(other, values, kept)
        if bool(torch.isin(part.round(), found).any()):
            return "some of its channels are read elsewhere, too"
    return found.long() - 1


def _run(node: fx.Node, values: dict[fx.Node, Any], kept: dict[fx.Node, Any]) -> Any:
    def value(source: fx.Node) -> Any:
        return values[source] if source in values else kept[source]

    args, kwargs = fx.node.map_arg((node.args, node.kwargs), value)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def _constant_along(labels: torch.Tensor, axis: int) -> torch.Tensor | None:
    """The label of each index of an axis; None where one holds several."""
    flat = labels.movedim(axis, 0).flatten(1)
    # Rows of attention that are masked whole are not numbers; borders of zeros are nobody's.
    known = flat.nan_to_num(0.0)
    label = known.amax(1)
    off = (known - label[:, None]).abs()
    same = bool(((off < 0.1) | (known == 0) | (flat.isnan())).all())
    return label.round() if same and bool((label >= 1).all()) else None


def shared_tensors(module: fx.GraphModule) -> dict[fx.Node, str]:
    """The `get_attr` nodes whose tensor another operator reads, too, with the name of the tensor.

    Equal storage counts: tied weights may have two names.
    """
    read: dict[int, set[fx.Node]] = {}
    nodes: dict[int, list[fx.Node]] = {}
    for node in module.graph.nodes:
        tensor = tensor_of(module, node)
        if tensor is not None and tensor.numel():
            key = tensor.untyped_storage().data_ptr()
            read.setdefault(key, set()).update(node.users)
            nodes.setdefault(key, []).append(node)
    return {
        node: str(node.target).removeprefix("model.")
        for key, group in nodes.items()
        if len(read[key]) > 1
        for node in group
    }


def own_tensors(node: fx.Node, shared: dict[fx.Node, str]) -> str | None:
    """None where no other operator reads the node's weight or bias, else the reason."""
    for argument in node.all_input_nodes:
        if argument in shared:
            return f"its {shared[argument]} is shared with another operator, and stays so"
    return None

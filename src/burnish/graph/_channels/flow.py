"""What rules read and write while labels flow: values, sizes, the ledger, decisions.

A rule takes an operator's node, joins what must live together, and gives the labels of what comes
out. Two things can be decided in more than one way, and are kept here so that another run may
decide otherwise: which axis carries the channels when one axis is cut into several (heads, or what
stands in each head), and whether a grouped convolution loses whole groups or the same channels of
each.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import fx

from burnish.graph._channels.axis import ONE, Axis, Ids, Opaque, Value, Values
from burnish.graph._channels.ledger import Ledger
from burnish.graph._edit import operator, operator_names, tensor_of

Heads = Literal["whole", "width"]
_NOT_THE_USERS = (
    f"{Path(torch.__file__).resolve().parent}{os.sep}",  # not torchvision, which stands beside it
    f"{Path(__file__).resolve().parents[1]}{os.sep}",
    "torch/",
)


@dataclass(frozen=True, eq=False)
class Shuffle:
    """A chain of views that only puts the channels of `axis` into another order.

    `order` [channels]: where each came from. `source` is what the chain reads, `inner` its nodes
    but for the last.
    """

    source: fx.Node
    axis: int
    order: Ids
    inner: tuple[fx.Node, ...]


@dataclass(eq=False)
class Decision:
    """What could be otherwise: which way was taken, of how many, and the ids it decided."""

    taken: int
    ways: int
    ids: Ids


@dataclass(eq=False)
class Flow:
    """One run through a graph.

    Args:
        module: the graph.
        heads: what attention may lose: whole heads, or the same channels of each head.
        ways: for a node whose decision was bad before, the way to take now.
    """

    module: fx.GraphModule
    heads: Heads
    ways: dict[fx.Node, int]
    ledger: Ledger = field(default_factory=Ledger)
    values: dict[fx.Node, Values] = field(default_factory=dict)
    decisions: dict[fx.Node, Decision] = field(default_factory=dict)
    shuffles: dict[fx.Node, Shuffle] = field(default_factory=dict)
    reads: set[tuple[str, int]] = field(default_factory=set)  # axes of tensors: a layer's inputs,
    writes: set[tuple[str, int]] = field(default_factory=set)  # and its outputs
    single: list[str] = field(default_factory=list)  # operators that make one channel
    names: dict[fx.Node, str] = field(init=False)

    def __post_init__(self) -> None:
        self.names = operator_names(self.module)

    def of(self, node: Any) -> Value:
        """The labels of a tensor; those of a graph's own tensor are made when first asked for."""
        assert isinstance(node, fx.Node)
        value = self.values[node]
        assert isinstance(value, tuple), node
        return value

    def decide(self, node: fx.Node, ways: int, ids: Ids) -> int:
        """The way to take at a node, and note that there are others."""
        taken = min(self.ways.get(node, 0), ways - 1)
        self.decisions[node] = Decision(taken, ways, ids)
        return taken

    def couple(self, one: Axis, other: Axis) -> Axis:
        """See `Ledger.couple`."""
        return self.ledger.couple(one, other)

    def make(self, node: fx.Node, axis: Axis) -> None:
        """An operator makes these channels: without them it is a smaller one."""
        self.ledger.make(axis, self.names[node])
        if axis is ONE:
            self.single.append(self.names[node])

    def weight(self, node: Any, *, inputs: int, outputs: int) -> Value:
        """The labels of a layer's weight, whose inputs and outputs lie on these axes."""
        value = self.of(node)
        if node.op == "get_attr":
            self.reads.add((str(node.target), inputs))
            self.writes.add((str(node.target), outputs))
        return value

    def close(self, axes: Sequence[Axis], reason: str) -> None:
        """What has channels on these axes must stay."""
        for axis in axes:
            self.ledger.freeze(axis, reason)

    def keep(self, node: fx.Node, axis: Axis, why: str) -> None:
        """A channel that an operator cannot do without, with the operator's name and line."""
        self.ledger.freeze(axis, f"{why} at {self.place(node)}")

    def place(self, node: fx.Node) -> str:
        """An operator's name, and the line of the user's code it stands on where that is known."""
        line = source_line(node)
        name = self.names.get(node, operator(node))
        return f"{name} ({line})" if line else name


def source_line(node: fx.Node) -> str:
    """file:line in the innermost forward that is not torch's own; "" where none was kept."""
    lines = str(node.meta.get("stack_trace") or "").splitlines()
    frames = [line.strip() for line in lines if line.strip().startswith('File "')]
    for frame in reversed(frames):
        path, _, rest = frame.removeprefix('File "').partition('", line ')
        if not path.startswith(_NOT_THE_USERS):
            return f"{path}:{rest.split(',')[0]}"
    return ""


def kind(node: fx.Node) -> str:
    """The name of one of torch's own operators, in place or not; "" for anything else."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return ""
    return target._schema.name.removeprefix("aten::").removesuffix("_")


def sizes(node: fx.Node) -> tuple[Any, ...]:
    """The sizes of a tensor: numbers, and symbols for the dynamic ones."""
    return tuple(node.meta["val"].shape)


def argument(node: fx.Node, name: str) -> Any:
    """An operator's argument by its name in the schema, its default where it was not given."""
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    for index, formal in enumerate(target._schema.arguments):
        if formal.name == name:
            if index < len(node.args):
                return node.args[index]
            if name in node.kwargs:
                return node.kwargs[name]
            return formal.default_value if formal.has_default_value() else None
    raise AssertionError(f"{target} has no argument {name}")


def tensors_in(node: fx.Node) -> list[fx.Node]:
    """The tensors an operator reads, in order."""
    return [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), torch.Tensor)]


def first(node: fx.Node) -> fx.Node:
    """The tensor an operator reads first."""
    source = node.args[0]
    assert isinstance(source, fx.Node), node
    return source


def listed(node: fx.Node) -> list[fx.Node]:
    """The tensors of an operator that reads a list of them."""
    tensors = node.args[0]
    assert isinstance(tensors, list | tuple)
    return [tensor for tensor in tensors if isinstance(tensor, fx.Node)]


def fixed(size: Any) -> bool:
    """Whether a size is a number."""
    return isinstance(size, int)


def opaque(node: fx.Node, reason: str) -> Value:
    """Labels of a tensor of which nothing is known."""
    return tuple(ONE if fixed(size) and size == 1 else Opaque(reason) for size in sizes(node))


def own_labels(flow: Flow, node: fx.Node) -> Value:
    """Labels of a tensor the graph holds: every axis has channels of its own."""
    tensor = tensor_of(flow.module, node)
    assert tensor is not None
    return tuple(ONE if size == 1 else flow.ledger.fresh(size) for size in tensor.shape)


def stretched(value: Value, rank: int) -> list[Axis]:
    """Labels with axes of size 1 before, up to `rank`."""
    return [*([ONE] * (rank - len(value))), *value]

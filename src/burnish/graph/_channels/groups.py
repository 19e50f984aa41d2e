"""Groups of channels that may be removed one by one, and what must stay, with the reason.

A channel here is a class of the ledger: positions on axes of several tensors that live or die
together. Channels that take the same number of positions on the same axes are alike, and form a
group: the outputs of a convolution with the batch-norm behind it and the inputs of the next one;
all that add into one residual stream; the heads of an attention. What a group loses is a list of
its channels' numbers.

Method: labels as in TinyNeuralNetwork's tracer (Alibaba, 2021), groups as in DepGraph (Fang, Ma,
Song, Mi and Wang, 2023); here by arrays of ids and one run of connected components.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from burnish.errors import InvalidInput
from burnish.graph._channels.axis import Ids, Opaque, Value, Values, ids_of, is_ids
from burnish.graph._channels.flow import Flow, Heads
from burnish.graph._channels.ledger import Settled
from burnish.graph._channels.propagate import propagate
from burnish.graph._trace import Traced

Alive = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Member:
    """Where a group's channels lie on an axis of a tensor: positions [channels, times]."""

    tensor: str
    axis: int
    positions: Ids


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that are alike, each of which lives or dies as a whole.

    Args:
        name: of the first operator that makes them; "(2)" and on where it makes several groups.
        layers: all operators that make them.
        members: their positions on the tensors of the graph.
        frozen: why none of them may be removed; None where they may.
    """

    name: str
    layers: tuple[str, ...]
    members: tuple[Member, ...]
    frozen: str | None

    @property
    def num_channels(self) -> int:
        """How many there are."""
        return len(self.members[0].positions)


@dataclass(frozen=True, eq=False)
class Channels:
    """All groups of a traced graph, and the labels behind them, for `shrink`."""

    traced: Traced
    groups: tuple[ChannelGroup, ...]
    flow: Flow
    settled: Settled
    classes: dict[str, Ids]  # of each group's channels, by its name

    def __iter__(self) -> Iterator[ChannelGroup]:
        return iter(self.groups)

    def labels(self, node: fx.Node) -> tuple[Ids | None, ...]:
        """For each axis of a tensor the ids on it; None where there are no channels."""
        return tuple(
            None if isinstance(axis, Opaque) else ids_of(axis) for axis in self.flow.of(node)
        )

    def parameters(self) -> dict[str, torch.Tensor]:
        """What can be trained in the graph, by the names of members."""
        return dict(self.traced.graph_module.named_parameters())

    def alive(self, removed: Mapping[str, Sequence[int]]) -> Alive:
        """For each id whether it lives, once the numbered channels of the named groups are gone.

        Raises:
            InvalidInput: no such group or channel, a group that must stay, or nothing left of one.
        """
        groups = {group.name: group for group in self.groups}
        dead: set[int] = set()
        for name, numbers in removed.items():
            _check(groups, name, numbers)
            dead.update(self.classes[name][list(numbers)].tolist())
        return ~np.isin(self.settled.class_of, np.fromiter(dead, np.int64, len(dead)))

    @property
    def single(self) -> tuple[str, ...]:
        """The layers with one channel, which belong to no group."""
        return tuple(self.flow.single)

    @property
    def free(self) -> tuple[ChannelGroup, ...]:
        """Those that may lose channels."""
        return tuple(group for group in self.groups if group.frozen is None)


def _check(groups: Mapping[str, ChannelGroup], name: str, numbers: Sequence[int]) -> None:
    """InvalidInput where these channels cannot be removed."""
    if name not in groups:
        known = ", ".join(group.name for group in groups.values() if group.frozen is None)
        raise InvalidInput(f"no group of channels is called {name!r}; there are: {known or 'none'}")
    group, num = groups[name], groups[name].num_channels
    if len(numbers) and group.frozen is not None:
        raise InvalidInput(f"the channels of {name!r} must stay: {group.frozen}")
    if any(not 0 <= number < num for number in numbers) or len(set(numbers)) != len(numbers):
        raise InvalidInput(f"{name!r} has channels 0 to {num - 1}; to be removed: {list(numbers)}")
    if len(numbers) == num:
        raise InvalidInput(f"all {num} channels of {name!r} would be removed: one must stay")


def channel_groups(traced: Traced, heads: Heads = "whole") -> Channels:
    """The groups of channels of a graph.

    Args:
        traced: stays as it is.
        heads: whether attention loses whole heads or the same channels of each head ("width").

    Raises:
        InvalidInput: another word for `heads`.
    """
    if heads not in ("whole", "width"):
        raise InvalidInput(f"heads={heads!r}: attention can lose 'whole' heads or 'width' of each")
    flow, settled = propagate(traced.graph_module, heads)
    held = _held(flow)
    groups: list[ChannelGroup] = []
    found: dict[str, Ids] = {}
    used: Counter[str] = Counter()
    alike = _alike(held, settled)
    for members, places in zip(alike, _members(held, settled, alike), strict=True):
        makers = settled.makers[settled.made[members[0]]]
        used[makers[0]] += 1
        name = makers[0] if used[makers[0]] == 1 else f"{makers[0]} ({used[makers[0]]})"
        reason = settled.reasons[settled.kept[members[0]]]
        groups.append(ChannelGroup(name, makers, places, reason))
        found[name] = members
    return Channels(traced, tuple(groups), flow, settled, found)


def _held(flow: Flow) -> dict[str, Value]:
    """The labels of the graph's own tensors, each once."""
    values: dict[str, Values] = {}
    for node, value in flow.values.items():
        if node.op == "get_attr":
            values.setdefault(str(node.target), value)
    return {name: value for name, value in values.items() if isinstance(value, tuple)}


def _alike(held: dict[str, Value], settled: Settled) -> list[Ids]:
    """The classes with a maker that lie on the same axes, as often, and stay for the same reason.

    Groups come in the order of their first classes.
    """
    classes = np.flatnonzero(settled.made)
    signatures = _signatures(held, settled)[classes]
    order = np.argsort(signatures, kind="stable")
    starts = np.flatnonzero(np.diff(signatures[order])) + 1
    groups = np.split(classes[order], starts) if len(classes) else []
    return sorted(groups, key=lambda members: int(members[0]))


def _signatures(held: dict[str, Value], settled: Settled) -> Ids:
    """A number for each class: on which axes it lies, how often, and why it must stay.

    It is a sum of random ones: two classes that differ have the same by a chance of 2^-64.
    """
    draw = np.random.default_rng(0)

    def salts(num: int) -> Ids:
        return draw.integers(-(2**62), 2**62, num)

    sums = salts(len(settled.reasons))[settled.kept]
    axes = [settled.class_of[axis] for value in held.values() for axis in value if is_ids(axis)]
    if axes:
        sizes = [len(axis) for axis in axes]
        np.add.at(sums, np.concatenate(axes), np.repeat(salts(len(axes)), sizes))
    return sums


def _members(
    held: dict[str, Value], settled: Settled, groups: Sequence[Ids]
) -> list[tuple[Member, ...]]:
    """Where the channels of each group lie, tensor by tensor."""
    num = len(settled.made)
    home, rank = np.full(num, -1, np.int64), np.full(num, -1, np.int64)
    start = 0
    for index, members in enumerate(groups):
        home[members], rank[members] = index, np.arange(start, start + len(members))
        start += len(members)
    found: list[list[Member]] = [[] for _ in groups]
    for name, value in held.items():
        for axis, ids in enumerate(value):
            if not is_ids(ids):
                continue
            classes = settled.class_of[ids]
            order = np.argsort(rank[classes], kind="stable")  # group after group, in their order
            homes = home[classes[order]]
            bounds = (0, *(np.flatnonzero(np.diff(homes)) + 1).tolist(), len(homes))
            for first, end in itertools.pairwise(bounds):
                index = int(homes[first])
                if index >= 0:
                    positions = order[first:end].reshape(len(groups[index]), -1)
                    found[index].append(Member(name, axis, positions))
    return [tuple(members) for members in found]

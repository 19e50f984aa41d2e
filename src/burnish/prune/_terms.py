"""A cost of the graph as tables over the widths of its groups, for the program that chooses them.

A term of `_cost` is a number times the living ids of some axes. Every id is of one group's channel
or of none, so an axis is as long as a sum over groups, and a product of two axes is a sum over
pairs of groups: exact whatever is concatenated. Terms of the same groups and block are added up.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from torch import fx

from burnish.errors import Unsupported
from burnish.graph import Channels, operator
from burnish.prune._cost import Cost, Term
from burnish.prune._program import Array, Priced
from burnish.prune._residual import ResidualBlock

Lengths = dict[str | None, Array]  # of an axis: by group over its levels; None: what stays


def priced(
    channels: Channels,
    cost: Cost,
    kept: Mapping[str, Sequence[int]],
    blocks: Iterable[ResidualBlock],
) -> list[Priced]:
    """The terms of a cost as tables.

    Args:
        channels: of the graph.
        cost: its terms.
        kept: the widths of each group that has several, the first that of all its channels.
        blocks: those that may be dropped, none within another.

    Raises:
        Unsupported: an operator over more than two groups on more than two axes.
    """
    group_of = _groups_of_ids(channels, kept)
    inside = {node: block.name for block in blocks for node in block.nodes}
    added: dict[tuple[tuple[str, ...], str | None], Array] = {}
    for term in cost.terms:
        homes = {inside.get(node) for node in term.nodes}
        block = homes.pop() if len(homes) == 1 else None
        axes = [_lengths(ids, group_of, kept) for ids in term.axes]
        for names, table in _tables(axes, term):
            key = (names, block)
            added[key] = added.get(key, np.zeros(())) + term.factor * table
    return [Priced(names, table, block) for (names, block), table in added.items()]


def _groups_of_ids(channels: Channels, kept: Mapping[str, Sequence[int]]) -> list[str | None]:
    """Which group each id is a channel of, among those that have several widths."""
    of_class: dict[int, str] = {
        number: name for name in kept for number in channels.classes[name].tolist()
    }
    return [of_class.get(number) for number in channels.settled.class_of.tolist()]


def _lengths(
    ids: npt.NDArray[np.int64],
    group_of: Sequence[str | None],
    kept: Mapping[str, Sequence[int]],
) -> Lengths:
    counts: dict[str | None, int] = {}
    for number in ids.tolist():
        name = group_of[number]
        counts[name] = counts.get(name, 0) + 1
    return {
        name: np.array([float(count)])
        if name is None
        # A group's channels are alike: each has as many positions on an axis.
        else count * np.array(kept[name]) / kept[name][0]
        for name, count in counts.items()
    }


def _tables(axes: Sequence[Lengths], term: Term) -> Iterator[tuple[tuple[str, ...], Array]]:
    """The product of some axes as tables over no, one or two groups."""
    for parts in itertools.product(*(axis.items() for axis in axes)):
        names = tuple(dict.fromkeys(name for name, _ in parts if name is not None))
        if len(names) > 2:
            where = ", ".join(operator(node) for node in _in_order(term.nodes))
            raise Unsupported(
                f"{where}: what it costs depends on the widths of {', '.join(names)} at once; "
                "leave all but two of them out with ignore="
            )
        table: Array = np.ones([1] * len(names))
        for name, lengths in parts:
            shape = [-1 if other == name else 1 for other in names]
            table = table * (lengths.reshape(shape) if name is not None else lengths[0])
        yield names, table


def _in_order(nodes: Iterable[fx.Node]) -> list[fx.Node]:
    return sorted(nodes, key=lambda node: node.name)


def tabulate(
    channels: Channels,
    kept: Mapping[str, Sequence[int]],
    axes: Sequence[npt.NDArray[np.int64]],
    price: Callable[..., float],
    block: str | None = None,
) -> Priced:
    """Any price of an operator that follows from how long some of its axes are.

    Args:
        channels: of the graph.
        kept: the widths of each group that has several.
        axes: the ids on each of the axes.
        price: takes how many of them live on each axis.
        block: the one that takes the operator with it.

    Where more than two groups meet on the axes (what is concatenated), the two with most of the
    ids are varied, and the others count as whole.
    """
    group_of = _groups_of_ids(channels, kept)
    lengths = [_lengths(ids, group_of, kept) for ids in axes]
    weight: dict[str, float] = {}
    for axis in lengths:
        for name, values in axis.items():
            if name is not None:
                weight[name] = weight.get(name, 0.0) + float(values[0])
    names = tuple(sorted(weight, key=weight.__getitem__, reverse=True)[:2])
    table = np.empty([len(kept[name]) for name in names])
    for place in np.ndindex(table.shape):
        level = dict(zip(names, place, strict=True))
        sizes = [
            sum(float(values[level.get(name, 0) if name else 0]) for name, values in axis.items())
            for axis in lengths
        ]
        table[place] = price(*sizes)
    return Priced(names, table, block)

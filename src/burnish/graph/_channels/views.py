"""Views: the same values under other axes. Most of what makes attention and shuffles is here.

Within a block of axes (`blocks`) at most one axis has channels, as a rule. Joined with others it
comes back as one axis on which each id stands several times. Cut into several, as for attention's
heads, one of the new axes carries the channels, and what differs only along the others is joined: a
head with all that is in it, or the same place of every head. Which axis that is follows `heads`
(the first for whole heads, the last for their width), never one from which single entries are taken
right away, and another where the first leaves nothing to remove.

A chain of views and transpositions that cuts an axis and puts it together again in another order (a
channel shuffle) joins nothing: it is an order, and shrinks to a selection by number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from burnish.graph._channels.axis import ONE, Axis, Ids, Opaque, Tiled, Value, ids_of, is_ids
from burnish.graph._channels.blocks import Block, blocks, lead
from burnish.graph._channels.flow import Flow, Shuffle, argument, first, fixed, sizes, stretched

aten = torch.ops.aten
VIEWS = frozenset(
    {
        *(aten.view.default, aten.reshape.default, aten._unsafe_view.default),
        *(aten.flatten.using_ints, aten.unflatten.int, aten.view_as.default),
        *(aten.reshape_as.default, aten._reshape_alias.default),
    }
)
_TAKING = frozenset({aten.unbind.int, aten.select.int, aten.split.Tensor, aten.chunk.default})
_COPIES = frozenset({aten.contiguous.default, aten.clone.default})


def view(flow: Flow, node: fx.Node) -> Value:
    """Any operator that gives the same values in the same order under other axes."""
    source = flow.shuffles[node].source if node in flow.shuffles else first(node)
    x, before, after = flow.of(source), sizes(source), sizes(node)
    if node in flow.shuffles:
        shuffle = flow.shuffles[node]
        label = x[shuffle.axis]
        label = label[shuffle.order] if is_ids(label) else label
        return (*x[: shuffle.axis], label, *x[shuffle.axis + 1 :])
    found: list[Axis] = [ONE] * len(after)
    for block in blocks(before, after):
        for axis, label in _within(flow, node, block, x, before, after).items():
            found[axis] = label
    return tuple(found)


def _within(
    flow: Flow,
    node: fx.Node,
    block: Block,
    x: Value,
    before: Sequence[Any],
    after: Sequence[Any],
) -> dict[int, Axis]:
    """The labels of a block's axes after the view."""
    if len(block.before) == len(block.after) == 1:
        return {block.after[0]: x[block.before[0]]}
    labelled = [axis for axis in block.before if ids_of(x[axis]).size]
    others = [x[axis] for axis in block.before if isinstance(x[axis], Opaque)]
    reason = others[0].reason if others and isinstance(others[0], Opaque) else "it was cut up"
    plain: dict[int, Axis] = {axis: Opaque(reason) for axis in block.after}
    if not labelled:
        return plain
    if len(labelled) > 1:
        largest = max(labelled, key=lambda axis: ids_of(x[axis]).size)
        for axis in labelled:
            if axis != largest:
                flow.keep(node, x[axis], "it is folded into other channels")
        labelled = [largest]
    (chosen,) = labelled
    start = block.before[0]
    known = len(ids_of(x[start])) if isinstance(x[start], Tiled) else 1
    shape = [before[axis] for axis in block.before]
    target = [after[axis] for axis in block.after]
    dynamic = not fixed(before[start])
    if dynamic:
        channels = lead(block, before, after, known)
        if channels is None:
            flow.keep(node, x[chosen], "it is folded together with a dynamic size")
            return plain
        shape[0], target[0] = known, channels
    if not all(map(fixed, shape)) or not all(map(fixed, target)):
        flow.keep(node, x[chosen], "it is folded together with a dynamic size")
        return plain
    at = block.before.index(chosen)
    spread = ids_of(x[chosen]).reshape([-1 if i == at else 1 for i in range(len(shape))])
    full = np.broadcast_to(spread, shape).reshape(target)
    carrier, ids = _carried(flow, node, full, [*block.after])
    plain[block.after[carrier]] = Tiled(ids) if dynamic and carrier == 0 else ids
    return plain


def _carried(flow: Flow, node: fx.Node, full: Ids, axes: Sequence[int]) -> tuple[int, Ids]:
    """The axis of `full` that carries the channels, and its ids; the rest is joined to them."""
    varying = [place for place in range(full.ndim) if _varies(full, place)]
    if not varying:
        varying = [0]
    if len(varying) > 1:
        taken = _taken(node, axes)
        order = [place for place in varying if axes[place] not in taken] or varying
        order = order if flow.heads == "whole" else order[::-1]
        varying = [order[flow.decide(node, len(order), np.unique(full))]]
    (place,) = varying
    rows = np.moveaxis(full, place, 0).reshape(full.shape[place], -1)
    return place, flow.ledger.join_rows(rows)


def _varies(full: Ids, place: int) -> bool:
    return bool((full != full.take([0], axis=place)).any())


def _taken(node: fx.Node, axes: Sequence[int]) -> set[int]:
    """The axes from which single entries, or parts, are taken right after the view."""
    where: list[int | None] = list(range(len(sizes(node))))
    taken: set[int | None] = set()
    for user in node.users:
        places, ends = _followed(user, where)
        for end in ends:
            if end.target in _TAKING:
                dim = argument(end, "dim")
                assert isinstance(dim, int)
                taken.add(places[dim])
    return {axis for axis in taken if axis is not None} & set(axes)


def _followed(node: fx.Node, where: list[int | None]) -> tuple[list[int | None], list[fx.Node]]:
    """Through what only moves axes: for each axis where it was, and who reads the end."""
    after = _moved_axes(node, where)
    if after is None:
        return where, [node]
    if len(node.users) == 1:
        return _followed(next(iter(node.users)), after)
    return after, list(node.users)


def _moved_axes(node: fx.Node, where: list[int | None]) -> list[int | None] | None:
    """Where each axis was before, after one more operator; None for one that does more."""
    order = permutation(node)
    if order is not None:
        return [where[axis] for axis in order]
    if node.target in _COPIES:
        return where
    if node.target is aten.unsqueeze.default:
        axis = argument(node, "dim") % (len(where) + 1)
        return [*where[:axis], None, *where[axis:]]
    if node.target in (aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default):
        dropped = dropped_by(node)
        return [origin for axis, origin in enumerate(where) if axis not in dropped]
    return None


def permutation(node: fx.Node) -> list[int] | None:
    """For each axis of a transposition where it comes from; None for any other operator."""
    if node.op != "call_function" or not isinstance(node.meta.get("val"), torch.Tensor):
        return None
    rank = len(sizes(node))
    axes = list(range(rank))
    if node.target is aten.permute.default:
        return [int(axis) % rank for axis in argument(node, "dims")]
    if node.target in (aten.transpose.int, aten.t.default):
        one, other = (0, rank - 1) if node.target is aten.t.default else node.args[1:3]
        assert isinstance(one, int) and isinstance(other, int)
        one, other = one % rank, other % rank
        axes[one], axes[other] = axes[other], axes[one]
        return axes
    if node.target in (aten.swapaxes.default, aten.swapdims.default):
        one, other = (int(axis) % rank for axis in node.args[1:3])  # type: ignore[arg-type]
        axes[one], axes[other] = axes[other], axes[one]
        return axes
    if node.target in (aten.movedim.int, aten.movedim.intlist):
        return _moved(node, rank)
    return axes if node.target is aten.numpy_T.default and rank < 2 else None


def _moved(node: fx.Node, rank: int) -> list[int]:
    given: list[Any] = list(node.args[1:3])
    source, destination = ([axes] if isinstance(axes, int) else list(axes) for axes in given)
    pairs = {to % rank: of % rank for of, to in zip(source, destination, strict=True)}
    rest = iter(axis for axis in range(rank) if axis not in pairs.values())
    return [pairs[axis] if axis in pairs else next(rest) for axis in range(rank)]


def transposition(flow: Flow, node: fx.Node) -> Value:
    """permute, transpose, movedim."""
    x, order = flow.of(first(node)), permutation(node)
    assert order is not None
    return tuple(x[axis] for axis in order)


def find_shuffles(module: fx.GraphModule) -> dict[fx.Node, Shuffle]:
    """The last node of each chain that only reorders one axis."""
    found = {}
    for node in module.graph.nodes:
        if node.target is aten.channel_shuffle.default:
            groups, channels = int(node.args[1]), int(sizes(node)[1])
            order = np.arange(channels, dtype=np.int64).reshape(groups, -1).T.ravel()
            found[node] = Shuffle(first(node), 1, order, ())
        if node.op == "call_function" and node.target in VIEWS:
            shuffle = _shuffle(node)
            if shuffle is not None:
                found[shuffle[0]] = shuffle[1]
    return found


def _shuffle(node: fx.Node) -> tuple[fx.Node, Shuffle] | None:
    source = first(node)
    before, middle = sizes(source), sizes(node)
    cut = [b for b in blocks(before, middle) if len(b.before) == 1 and len(b.after) > 1]
    if len(cut) != 1:
        return None
    (axis,), pieces = cut[0].before, cut[0].after
    shape = [middle[piece] for piece in pieces]
    if not all(map(fixed, (before[axis], *shape))):
        return None
    where, last, inner = list(range(len(middle))), node, []
    while len(last.users) == 1:
        inner.append(last)
        (last,) = last.users
        order = permutation(last)
        if order is not None:
            where = [where[place] for place in order]
        elif last.target in VIEWS:
            closed = _closed(source, last, axis, where, pieces, shape)
            return None if closed is None else (last, Shuffle(source, axis, closed, tuple(inner)))
        elif last.target not in _COPIES:
            return None
    return None


def _closed(
    source: fx.Node,
    last: fx.Node,
    axis: int,
    where: list[int],
    pieces: Sequence[int],
    shape: Sequence[int],
) -> Ids | None:
    """The order, where the last view puts all pieces together where the axis was."""
    if len(sizes(last)) != len(sizes(source)):
        return None
    places = [place for place, origin in enumerate(where) if origin in pieces]
    rest = [origin for origin in where if origin not in pieces]
    if places != list(range(axis, axis + len(pieces))) or rest != sorted(rest):
        return None
    if any(not _same(a, b) for a, b in zip(sizes(last), sizes(source), strict=True)):
        return None
    order = [pieces.index(where[place]) for place in places]
    numbers = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    return numbers.transpose(order).ravel()


def _same(one: Any, other: Any) -> bool:
    if fixed(one) or fixed(other):
        return fixed(one) and fixed(other) and one == other
    return bool(one.node.expr == other.node.expr)


def unsqueezed(flow: Flow, node: fx.Node) -> Value:
    """A new axis of size 1."""
    x, axis = flow.of(first(node)), argument(node, "dim")
    axis %= len(x) + 1
    return (*x[:axis], ONE, *x[axis:])


def squeezed(flow: Flow, node: fx.Node) -> Value:
    """Axes of size 1 taken away."""
    dropped = dropped_by(node)
    return tuple(label for axis, label in enumerate(flow.of(first(node))) if axis not in dropped)


def dropped_by(node: fx.Node) -> set[int]:
    """The axes that a squeeze takes away."""
    source = first(node)
    shape = sizes(source)
    given: Any = node.args[1] if len(node.args) > 1 else range(len(shape))
    chosen = {axis % len(shape) for axis in ([given] if isinstance(given, int) else given)}
    return {axis for axis in chosen if fixed(shape[axis]) and shape[axis] == 1}


def expanded(flow: Flow, node: fx.Node) -> Value:
    """Axes of size 1 stretched: what stands on them is the same everywhere, so any may go."""
    source = first(node)
    x, after = flow.of(source), sizes(node)
    added = len(after) - len(x)
    found: list[Axis] = []
    for axis, size in enumerate(after):
        label = x[axis - added] if axis >= added else ONE
        if label is ONE and fixed(size) and size > 1:
            label = flow.ledger.fresh(size)
        elif label is ONE and not fixed(size):
            label = Opaque("it is the same for all")
        found.append(label)
    return tuple(found)


def tiled(flow: Flow, node: fx.Node) -> Value:
    """repeat: the whole axis several times."""
    source = first(node)
    x, after = flow.of(source), sizes(node)
    times = list(argument(node, "repeats" if "repeat" in str(node.target) else "dims"))
    times = [1] * (len(after) - len(times)) + times
    found: list[Axis] = []
    for label, size, number in zip(stretched(x, len(after)), after, times, strict=True):
        if label is ONE:
            stretches = fixed(size) and size > 1
            found.append(flow.ledger.fresh(size) if stretches else Opaque("it is the same for all"))
        elif is_ids(label) and fixed(number):
            found.append(np.tile(label, number))
        else:
            flow.keep(node, label, "it is repeated")
            found.append(Opaque("it is repeated"))
    return tuple(found)


def interleaved(flow: Flow, node: fx.Node) -> Value:
    """repeat_interleave by one number: each entry of an axis several times in a row."""
    x, axis, number = flow.of(first(node)), argument(node, "dim"), node.args[1]
    if not isinstance(axis, int) or not isinstance(number, int):
        flow.close(x, f"it is repeated at {flow.place(node)}")
        return tuple(Opaque("it is repeated") for _ in sizes(node))
    axis %= len(x)
    label = x[axis]
    if is_ids(label):
        label = np.repeat(label, number)
    elif label is ONE and number > 1:
        label = flow.ledger.fresh(number)
    return (*x[:axis], label, *x[axis + 1 :])


def pixels_from_channels(flow: Flow, node: fx.Node) -> Value:
    """pixel_shuffle: channels [..., c * r * r, h, w] to pixels; a c goes with its r * r."""
    x, factor = flow.of(first(node)), int(node.args[1])  # type: ignore[arg-type]
    label = x[-3]
    if is_ids(label):
        label = flow.ledger.join_rows(label.reshape(-1, factor * factor))
    return (*x[:-3], label, *[Opaque("pixels were made of it")] * 2)


def channels_from_pixels(flow: Flow, node: fx.Node) -> Value:
    """pixel_unshuffle: pixels to channels [..., c * r * r, h / r, w / r]."""
    x, factor = flow.of(first(node)), int(node.args[1])  # type: ignore[arg-type]
    label = x[-3]
    if is_ids(label):
        label = np.repeat(label, factor * factor)
    elif label is ONE:
        label = Opaque("it was made of pixels")
    return (*x[:-3], label, *[Opaque("channels were made of it")] * 2)

"""Concatenation, slices and parts: axes put together and taken apart, position by position.

What is picked by number (a single entry, a table lookup, a sort) depends on where it stands, so its
axis must keep all it has. A padded axis has new positions of its own, which hold the same constant
and may go with whatever they meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from burnish.graph._channels.axis import ONE, Axis, Ids, Opaque, Value, ids_of, is_ids
from burnish.graph._channels.flow import Flow, argument, first, fixed, listed, sizes
from burnish.graph._channels.layers import along


def concatenated(flow: Flow, node: fx.Node) -> Value:
    """Tensors one after another on an axis."""
    tensors = [tensor for tensor in listed(node) if sizes(tensor) != (0,)]
    values = [flow.of(tensor) for tensor in tensors]
    rank = len(values[0])
    axis = _axis(node, rank)
    found: list[Axis] = []
    for place in range(rank):
        labels = [value[place] for value in values]
        if place == axis:
            found.append(_strung(flow, node, labels, [sizes(t)[axis] for t in tensors]))
        else:
            label = labels[0]
            for other in labels[1:]:
                label = along(flow, label, other)
            found.append(label)
    return tuple(found)


def _strung(flow: Flow, node: fx.Node, labels: Sequence[Axis], lengths: Sequence[Any]) -> Axis:
    """One axis after another; a part without channels gets ids that must stay."""
    if len(labels) == 1:
        return labels[0]
    if not any(ids_of(label).size for label in labels):
        return next((x for x in labels if isinstance(x, Opaque) and x is not ONE), Opaque("joined"))
    if not all(map(fixed, lengths)):
        for label in labels:
            flow.keep(node, label, "it is joined to a dynamic size")
        return Opaque("it is joined to a dynamic size")
    parts = []
    for label, length in zip(labels, lengths, strict=True):
        if is_ids(label):
            parts.append(label)
            continue
        flow.keep(node, label, "it is joined to channels")
        part = flow.ledger.fresh(length)
        reason = label.reason if isinstance(label, Opaque) else "it is joined to channels"
        flow.ledger.freeze(part, reason)
        parts.append(part)
    return np.concatenate(parts)


def stacked(flow: Flow, node: fx.Node) -> Value:
    """Tensors side by side on a new axis."""
    values = [flow.of(tensor) for tensor in listed(node)]
    found: list[Axis] = []
    for labels in zip(*values, strict=True):
        label = labels[0]
        for other in labels[1:]:
            label = along(flow, label, other)
        found.append(label)
    found.insert(_axis(node, len(found) + 1), Opaque(f"it is counted at {flow.place(node)}"))
    return tuple(found)


def parts(flow: Flow, node: fx.Node) -> list[Value]:
    """split, chunk: consecutive parts of an axis."""
    x = flow.of(first(node))
    axis, label = _axis(node, len(x)), x[_axis(node, len(x))]
    found: list[Value] = []
    start = 0
    for part in node.meta["val"]:
        length = part.shape[axis]
        piece: Axis = label
        if is_ids(label):
            own = label[start : start + length]
            piece = own if length > 1 else _single(flow, node, own)
            start += length
        found.append((*x[:axis], piece, *x[axis + 1 :]))
    return found


def _single(flow: Flow, node: fx.Node, ids: Ids) -> Axis:
    """A part of one position stretches where it is read, so it must stay."""
    flow.keep(node, ids, "a single entry is taken")
    return ONE


def unbound(flow: Flow, node: fx.Node) -> list[Value]:
    """Each entry of an axis alone."""
    found = selected(flow, node)
    return [found] * len(node.meta["val"])


def selected(flow: Flow, node: fx.Node) -> Value:
    """One entry of an axis."""
    x = flow.of(first(node))
    axis = _axis(node, len(x))
    flow.keep(node, x[axis], "single entries are taken")
    return (*x[:axis], *x[axis + 1 :])


def sliced(flow: Flow, node: fx.Node) -> Value:
    """From a position to another, every so many."""
    x = flow.of(first(node))
    axis = _axis(node, len(x))
    label = x[axis]
    if not is_ids(label):
        return x
    window = slice_of(node)
    if window is None:
        flow.keep(node, label, "a part of dynamic size is taken")
        piece: Axis = Opaque("it is a part of dynamic size")
    else:
        piece = label[window]
        if len(piece) == 1:
            piece = _single(flow, node, piece)
    return (*x[:axis], piece, *x[axis + 1 :])


def slice_of(node: fx.Node) -> slice | None:
    """Which positions a slice takes; None where that is dynamic."""
    start, end, step = (argument(node, name) for name in ("start", "end", "step"))
    if any(isinstance(number, fx.Node) for number in (start, end, step)):
        return None
    return slice(start, end, step)


def looked_up(flow: Flow, node: fx.Node) -> Value:
    """Entries by number: index_select, gather, x[numbers]. Axes that are not counted pass."""
    x = flow.of(first(node))
    index = argument(node, "indices") if "indices" in _names(node) else None
    if index is None:
        axis = _axis(node, len(x))
        flow.keep(node, x[axis], "its entries are taken by number")
        return (*x[:axis], Opaque("it was taken by number"), *x[axis + 1 :])
    counted = [axis for axis, numbers in enumerate(index) if numbers is not None]
    for axis in counted:
        flow.keep(node, x[axis], "its entries are taken by number")
    new = len(sizes(node)) - (len(x) - len(counted))
    numbers = [Opaque("it was taken by number")] * new
    rest = [label for axis, label in enumerate(x) if axis not in counted]
    together = counted == list(range(counted[0], counted[0] + len(counted)))
    start = counted[0] if together else 0
    return (*rest[:start], *numbers, *rest[start:])


def _names(node: fx.Node) -> list[str]:
    assert isinstance(node.target, torch._ops.OpOverload)
    return [formal.name for formal in node.target._schema.arguments]


def padded(flow: Flow, node: fx.Node) -> Value:
    """New positions before and after, the last axis first; a negative number cuts."""
    x = list(flow.of(first(node)))
    for axis, before, after in amounts(node, len(x)):
        label = x[axis]
        if not before and not after:
            continue
        if not is_ids(label) or not constant(node):
            flow.keep(node, label, "it is padded")
            x[axis] = (
                label if isinstance(label, Opaque) and label is not ONE else Opaque("it is padded")
            )
            continue
        new = [flow.ledger.fresh(max(before, 0)), label, flow.ledger.fresh(max(after, 0))]
        whole = np.concatenate(new)
        x[axis] = whole[max(-before, 0) : len(whole) - max(-after, 0)]
    return tuple(x)


def constant(node: fx.Node) -> bool:
    """Whether padding puts one value everywhere."""
    return "mode" not in _names(node) or argument(node, "mode") == "constant"


def amounts(node: fx.Node, rank: int) -> list[tuple[int, int, int]]:
    """(axis, before, after) of a padding, as far as its numbers are fixed."""
    given = argument(node, "pad")
    pairs = zip(given[::2], given[1::2], strict=True)
    return [
        (rank - 1 - place, before, after)
        for place, (before, after) in enumerate(pairs)
        if fixed(before) and fixed(after)
    ]


def gated(flow: Flow, node: fx.Node) -> Value:
    """glu: one half of an axis weighed by the other."""
    x = flow.of(first(node))
    axis = _axis(node, len(x))
    label = x[axis]
    if is_ids(label):
        flow.ledger.join(*np.split(label, 2))
        label = np.split(label, 2)[0]
    return (*x[:axis], label, *x[axis + 1 :])


def turned(flow: Flow, node: fx.Node) -> Value:
    """roll: what stands on the axes changes places."""
    x = flow.of(first(node))
    axes = argument(node, "dims")
    for axis in [axes] if isinstance(axes, int) else axes:
        flow.keep(node, x[axis], "its entries change places")
    return x


def _axis(node: fx.Node, rank: int) -> int:
    axis = argument(node, "dim")
    assert isinstance(axis, int)
    return axis % rank

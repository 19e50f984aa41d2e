"""Operators that work on each value alone, reductions, and windows over pixels.

Where two tensors meet position by position, their channels are joined; where one has size 1, it
stretches and joins nothing. A reduction over channels mixes them: they must stay. Pooling and
resizing leave samples and channels as they are and change what comes after.
"""

from __future__ import annotations

from torch import fx

from burnish.graph._channels.axis import ONE, Axis, Opaque, Value
from burnish.graph._channels.flow import Flow, argument, sizes, stretched, tensors_in
from burnish.graph._channels.layers import along


def pointwise(flow: Flow, node: fx.Node) -> Value:
    """All tensors an operator reads, stretched to one shape."""
    rank = len(sizes(node))
    found: list[Axis] = [ONE] * rank
    for tensor in tensors_in(node):
        value = stretched(flow.of(tensor), rank)
        found = [along(flow, one, other) for one, other in zip(found, value, strict=True)]
    return tuple(found)


def reduction(flow: Flow, node: fx.Node) -> Value:
    """mean, sum, maximum over some axes or all."""
    x = flow.of(node.args[0])
    given = argument(node, "dim")
    axes = range(len(x)) if given is None or given == [] else given
    chosen = {axis % len(x) for axis in ([axes] if isinstance(axes, int) else axes)} if x else set()
    for axis in sorted(chosen):
        flow.keep(node, x[axis], "all of it is put into one number")
    if argument(node, "keepdim"):
        return tuple(ONE if axis in chosen else label for axis, label in enumerate(x))
    return tuple(label for axis, label in enumerate(x) if axis not in chosen)


def windowed(flow: Flow, node: fx.Node) -> Value:
    """Pooling and resizing: [samples, channels, ...] with a window over the rest."""
    x = flow.of(node.args[0])
    spatial = _spatial(node)
    kept = len(x) - spatial
    flow.close(x[kept:], f"a window slides over it at {flow.place(node)}")
    return (*x[:kept], *[Opaque(f"it is an axis of {flow.place(node)}")] * spatial)


def windowed_pair(flow: Flow, node: fx.Node) -> list[Value]:
    """Pooling that also tells where it found its maxima."""
    found = windowed(flow, node)
    return [found, found]


def _spatial(node: fx.Node) -> int:
    """How many of the last axes an operator slides over, by its name."""
    name = str(node.target)
    for word, number in (("1d", 1), ("2d", 2), ("3d", 3)):
        if word in name:
            return number
    return len(sizes(node)) - 2


def repeated(flow: Flow, node: fx.Node) -> Value:
    """What gives a tensor just like the one it reads: contiguous, clone, dropout."""
    return flow.of(node.args[0])

"""What a removed channel would still hold, had it only been masked: nothing, a constant, or more.

Masking sets to zero whatever makes a channel: its rows, its bias, its normalisation's weight and
bias. Most operators make zero of zero. Some do not: sigmoid(0) is 0.5, and that half goes into the
next layer in every sample alike. Where all positions of a channel provably hold one constant c, a
layer that reads it adds c times its column to every output, which is a bias. So a constant can be
folded into the next bias, unless the layer pads with zeros, which are not c. Where no constant is
known, the mask has to stand behind that operator as well.

An axis of a tensor has one constant for all its removed channels, or None for "not known".
"""

from __future__ import annotations

import math
import operator as python
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from burnish.graph._channels.axis import ONE, Value, ids_of
from burnish.graph._channels.einsum import letters
from burnish.graph._channels.flow import Flow, argument, first, kind, listed, tensors_in
from burnish.graph._channels.views import VIEWS, permutation

Held = tuple[float | None, ...]  # a constant for each axis of a tensor
NOTHING = 0.0


def remains(flow: Flow) -> dict[fx.Node, Held | list[Held]]:
    """For each node and axis what a masked channel holds there."""
    found: dict[fx.Node, Any] = {}
    for node in flow.module.graph.nodes:
        labels = flow.values.get(node)
        if labels is None or node.op == "output":
            continue
        if node.op == "get_attr":
            found[node] = tuple(NOTHING for _ in labels)
        elif node.op == "placeholder" or not labels:
            found[node] = tuple(None for _ in labels)
        elif node.target is python.getitem:
            found[node] = found[first(node)][int(str(node.args[1]))]
        else:
            found[node] = _called(flow, found, node, labels)
    return found


def _called(flow: Flow, found: dict[fx.Node, Any], node: fx.Node, labels: Any) -> Any:
    if isinstance(labels, list):
        rule = _SEVERAL.get(kind(node))
        unknown: list[Held] = [tuple(None for _ in value) for value in labels]
        return unknown if rule is None else rule(flow, found, node)
    if node in flow.shuffles or node.target in VIEWS:
        return _viewed(flow, found, node, labels)
    if permutation(node) is not None:
        source = found[first(node)]
        return tuple(source[axis] for axis in permutation(node) or ())
    rule_ = _ONE.get(kind(node))
    if rule_ is not None:
        return rule_(flow, found, node)
    target = node.target
    if isinstance(target, torch._ops.OpOverload) and (
        torch.Tag.pointwise in target.tags or kind(node) in ("hardswish", "log_sigmoid")
    ):
        return _pointwise(flow, found, node)
    return tuple(None for _ in labels)


def _pointwise(flow: Flow, found: dict[fx.Node, Any], node: fx.Node) -> Held:
    """The operator's own value for the constants, where all that it reads are known."""
    rank = len(flow.of(node))
    held: list[float | None] = []
    for axis in range(-rank, 0):
        known: dict[fx.Node, float | None] = {}
        for tensor in tensors_in(node):
            value = flow.of(tensor)
            labelled = -axis <= len(value) and ids_of(value[axis]).size
            known[tensor] = found[tensor][axis] if labelled else None
        held.append(_value(node, known))
    return tuple(held)


def _value(node: fx.Node, known: dict[fx.Node, float | None]) -> float | None:
    name = kind(node)
    source = node.args[0] if node.args else None
    if name == "mul" and NOTHING in known.values():
        return NOTHING
    if name == "div" and isinstance(source, fx.Node) and known.get(source) == NOTHING:
        return NOTHING
    if name == "masked_fill" and isinstance(source, fx.Node):
        fill = node.args[2]
        return known[source] if known[source] == fill else None
    if None in known.values():
        return None
    args, kwargs = fx.map_arg(
        (node.args, dict(node.kwargs)),
        lambda n: torch.tensor(known[n], dtype=_exact(n)) if n in known else n,
    )
    if any(isinstance(arg, fx.Node) for arg in (*args, *kwargs.values())):
        return None
    value = float(node.target(*args, **kwargs))  # type: ignore[operator]
    return value if math.isfinite(value) else None


def _exact(node: fx.Node) -> torch.dtype:
    """The type to compute a constant of a tensor in: its own where that is no floating one."""
    own: torch.dtype = node.meta["val"].dtype
    return torch.float64 if own.is_floating_point else own


def _viewed(flow: Flow, found: dict[fx.Node, Any], node: fx.Node, labels: Value) -> Held:
    """A view moves constants with their channels: by the one labelled axis each comes from."""
    source = flow.shuffles[node].source if node in flow.shuffles else first(node)
    held = []
    for label in labels:
        ids = set(ids_of(label).tolist())
        values = {
            found[source][axis]
            for axis, other in enumerate(flow.of(source))
            if ids & set(ids_of(other).tolist())
        }
        held.append(values.pop() if len(values) == 1 else None)
    return tuple(held)


def _passed(flow: Flow, found: dict[fx.Node, Any], node: fx.Node) -> Held:
    """The same as what is read, axis by axis."""
    return tuple(found[first(node)])


def _zero_passed(flow: Flow, found: dict[fx.Node, Any], node: fx.Node) -> Held:
    """Zero stays zero; a constant may meet padding."""
    held = found[first(node)]
    return tuple(0.0 if value == 0 else None for value in held)


def _linear(flow: Flow, found: dict[fx.Node, Any], node: fx.Node) -> Held:
    rank = len(flow.of(node))
    return _layer(found, node, rank, rank - 1, 0)


def _convolution(flow: Flow, found: dict[fx.Node, Any], node: fx.Node) -> Held:
    rank = len(flow.of(node))
    weight = len(flow.of(argument(node, "weight")))
    grouped = argument(node, "groups") != 1  # one, several, or as many as a dynamic size says
    # The rows of a transposed convolution in groups are those of its bias alone.
    rows = 1 if "transpose" in kind(node) and not grouped else 0
    return _layer(found, node, rank, rank - weight + 1, rows)


def _layer(found: dict[fx.Node, Any], node: fx.Node, rank: int, place: int, rows: int) -> Held:
    """Zero on the axis of a layer's outputs, where its rows and its bias are."""
    bias = argument(node, "bias")
    zero = found[argument(node, "weight")][rows] == 0
    zero = zero and (not isinstance(bias, fx.Node) or found[bias][0] == 0)
    return tuple(NOTHING if zero and axis == place else None for axis in range(rank))


def _embedding(flow: Flow, found: dict[fx.Node, Any], node: fx.Node) -> Held:
    rank = len(flow.of(node))
    held = found[first(node)][1]
    return (*[None] * (rank - 1), held)


def _normalized(flow: Flow, found: dict[fx.Node, Any], node: fx.Node) -> Held:
    """Weight and bias are zero where there are any; otherwise the statistics decide."""
    rank = len(flow.of(node))
    weight = argument(node, "weight")
    if not isinstance(weight, fx.Node):
        return tuple(None for _ in range(rank))
    last = kind(node) in ("layer_norm", "rms_norm")
    own = range(rank - len(flow.of(weight)), rank) if last else range(1, 2)
    return tuple(NOTHING if axis in own else None for axis in range(rank))


def _along_product(flow: Flow, found: dict[fx.Node, Any], node: fx.Node) -> Held:
    """x @ y: zero where either has zeros: all its row, column, or matrix is then."""
    x, y = node.args[-2:]
    assert isinstance(x, fx.Node) and isinstance(y, fx.Node)
    rank = len(flow.of(node))
    held: list[float | None] = [None] * rank
    for tensor, last in ((x, -1), (y, -2)):
        value = flow.of(tensor)
        for axis in range(-len(value), 0):
            place = axis if len(value) > 1 else 0
            if place != last and rank + axis >= 0 and ids_of(value[axis]).size:
                held[axis] = 0.0 if found[tensor][axis] == 0 else held[axis]
    return tuple(held)


def _einsum(flow: Flow, found: dict[fx.Node, Any], node: fx.Node) -> Held:
    """Zero along a letter of the result where an operand with that letter is."""
    terms, result, operands = letters(node) or ([], "", [])
    held: dict[str, float] = {}
    for term, operand in zip(terms, operands, strict=True):
        for letter, value, label in zip(term, found[operand], flow.of(operand), strict=True):
            if value == 0 and ids_of(label).size:
                held[letter] = 0.0
    return tuple(held.get(letter) for letter in result)


def _attention(flow: Flow, found: dict[fx.Node, Any], node: fx.Node) -> Held:
    """A mean of values: a constant stays the constant it is."""
    values: Any = node.args[2]
    value = found[values]
    rank = len(flow.of(node))
    return tuple(None if axis == rank - 2 else value[axis] for axis in range(rank))


def _joined(flow: Flow, found: dict[fx.Node, Any], node: fx.Node) -> Held:
    """cat, stack: what all parts with channels agree on."""
    parts = listed(node)
    rank = len(flow.of(node))
    held: list[float | None] = []
    stacked = kind(node) == "stack"
    new = int(argument(node, "dim")) % rank
    for axis in range(rank):
        if stacked and axis == new:
            held.append(None)
            continue
        own = axis - (1 if stacked and axis > new else 0)
        values = {
            found[part][own]
            for part in parts
            if own < len(flow.of(part)) and ids_of(flow.of(part)[own]).size
        }
        held.append(values.pop() if len(values) == 1 else None)
    return tuple(held)


def _parts(flow: Flow, found: dict[fx.Node, Any], node: fx.Node) -> list[Held]:
    return [tuple(found[first(node)])] * len(node.meta["val"])


def _unbound(flow: Flow, found: dict[fx.Node, Any], node: fx.Node) -> list[Held]:
    return [_selected(flow, found, node)] * len(node.meta["val"])


def _selected(flow: Flow, found: dict[fx.Node, Any], node: fx.Node) -> Held:
    held = found[first(node)]
    axis = int(argument(node, "dim")) % len(held)
    return (*held[:axis], *held[axis + 1 :])


def _unsqueezed(flow: Flow, found: dict[fx.Node, Any], node: fx.Node) -> Held:
    held = found[first(node)]
    axis = int(argument(node, "dim")) % (len(held) + 1)
    return (*held[:axis], None, *held[axis:])


def _by_channels(flow: Flow, found: dict[fx.Node, Any], node: fx.Node) -> Held:
    """Where axes went is read off the channels on them: squeeze, expand, reductions."""
    return _viewed(flow, found, node, flow.of(node))


def _stretched(flow: Flow, found: dict[fx.Node, Any], node: fx.Node) -> Held:
    source = first(node)
    labels, before = flow.of(node), flow.of(source)
    added = len(labels) - len(before)
    return tuple(
        found[source][axis - added] if axis >= added and before[axis - added] is not ONE else None
        for axis in range(len(labels))
    )


def _reduced(flow: Flow, found: dict[fx.Node, Any], node: fx.Node) -> Held:
    """The mean or maximum of a constant is the constant; the sum of zeros is zero."""
    held = _by_channels(flow, found, node)
    if kind(node) in ("mean", "amax", "amin"):
        return held
    return tuple(0.0 if value == 0 and kind(node) == "sum" else None for value in held)


def _padded(flow: Flow, found: dict[fx.Node, Any], node: fx.Node) -> Held:
    fill = argument(node, "value") or 0.0
    return tuple(value if value == fill else None for value in found[first(node)])


def _created(flow: Flow, found: dict[fx.Node, Any], node: fx.Node) -> Held:
    name = kind(node)
    value: Any = 0.0 if "zeros" in name else 1.0
    if "full" in name:
        value = argument(node, "fill_value")
    return tuple(float(value) if isinstance(value, int | float) else None for _ in flow.of(node))


def _recurrent(flow: Flow, found: dict[fx.Node, Any], node: fx.Node) -> list[Held]:
    """Zero in every step, where the first state is zero: all gates multiply a zero."""
    hx = argument(node, "hx")
    states = hx if isinstance(hx, list | tuple) else [hx]
    zero = all(found[state][-1] == 0 for state in states)
    values = flow.values[node]
    assert isinstance(values, list)
    end = NOTHING if zero else None
    return [(*[None] * (len(value) - 1), end) for value in values]


_Rule = Callable[[Flow, dict[fx.Node, Any], fx.Node], Held]
_ONE: dict[str, _Rule] = {
    "linear": _linear,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _convolution),
    "embedding": _embedding,
    **dict.fromkeys(
        ("batch_norm", "instance_norm", "layer_norm", "rms_norm", "group_norm"), _normalized
    ),
    **dict.fromkeys(("matmul", "mm", "bmm"), _along_product),
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(("cat", "concat", "concatenate", "stack"), _joined),
    "select": _selected,
    "unsqueeze": _unsqueezed,
    "squeeze": _by_channels,
    **dict.fromkeys(("expand", "expand_as", "repeat", "tile"), _stretched),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), _reduced),
    **dict.fromkeys(("pad", "constant_pad_nd"), _padded),
    **dict.fromkeys(
        ("zeros", "ones", "full", "new_zeros", "new_ones", "new_full", "zeros_like", "ones_like"),
        _created,
    ),
    **dict.fromkeys(
        (
            *("contiguous", "clone", "alias", "detach", "lift_fresh_copy", "to", "_to_copy"),
            *("type_as", "slice", "roll", "repeat_interleave", "pixel_shuffle"),
            *("max_pool1d", "max_pool2d", "max_pool3d", "adaptive_avg_pool1d"),
            *("adaptive_avg_pool2d", "adaptive_avg_pool3d", "upsample_nearest1d"),
            *("upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d"),
        ),
        _passed,
    ),
    **dict.fromkeys(
        (
            *("avg_pool1d", "avg_pool2d", "avg_pool3d", "upsample_linear1d", "prelu", "dropout"),
            *("upsample_bicubic2d", "upsample_trilinear3d", "alpha_dropout"),
        ),
        _zero_passed,
    ),
}
_SEVERAL: dict[str, Callable[[Flow, dict[fx.Node, Any], fx.Node], list[Held]]] = {
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split"), _parts),
    "unbind": _unbound,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
}

"""Layers with weights: convolution, linear, products of matrices, normalisation, embedding.

A layer's outputs are the rows of its weight, its inputs the columns: so both are labels of one
tensor, and whoever reads the layer joins them. A grouped convolution either loses whole groups
(inputs and outputs of a group live together: a depthwise convolution is the case of one channel
each) or the same channel of each group; where the first leaves nothing to remove, the second is
taken. A layer norm reads all channels of a sample: that its statistics change with them is for
`shrink` and the mask to deal with, not a reason to keep them.

Left out: a group norm that loses part of a group.
"""

from __future__ import annotations

from torch import fx

from burnish.graph._channels.axis import ONE, Axis, Opaque, Value, is_ids
from burnish.graph._channels.flow import Flow, argument, kind, opaque, stretched, tensors_in


def linear(flow: Flow, node: fx.Node) -> Value:
    """x [..., in], weight [out, in]."""
    x, weight = flow.of(node.args[0]), flow.weight(argument(node, "weight"), inputs=1, outputs=0)
    if len(weight) == 1:
        flow.couple(x[-1], weight[0])
        return x[:-1]
    flow.couple(x[-1], weight[1])
    flow.make(node, weight[0])
    _bias(flow, node, weight[0])
    return (*x[:-1], weight[0])


def _bias(flow: Flow, node: fx.Node, outputs: Axis) -> None:
    bias = argument(node, "bias")
    if isinstance(bias, fx.Node):
        flow.couple(flow.of(bias)[0], outputs)


def convolution(flow: Flow, node: fx.Node) -> Value:
    """x [samples, in, ...], weight [out, in/groups, ...]; samples may be missing."""
    x, weight = flow.of(node.args[0]), flow.weight(argument(node, "weight"), inputs=1, outputs=0)
    groups = argument(node, "groups")
    if not isinstance(groups, int):
        return _counted(flow, node)
    channel = len(x) - len(weight) + 1
    outputs = weight[0]
    flow.close(x[channel + 1 :], f"a window slides over it at {flow.place(node)}")
    if groups == 1:
        flow.couple(x[channel], weight[1])
    else:
        _grouped(flow, node, x[channel], outputs, weight[1], groups)
    flow.make(node, outputs)
    _bias(flow, node, outputs)
    return (*x[:channel], outputs, *_windows(flow, node, x, channel))


def transposed(flow: Flow, node: fx.Node) -> Value:
    """x [samples, in, ...], weight [in, out/groups, ...]; samples may be missing."""
    x, weight = flow.of(node.args[0]), flow.weight(argument(node, "weight"), inputs=0, outputs=1)
    groups = argument(node, "groups")
    if not isinstance(groups, int):
        return _counted(flow, node)
    channel = len(x) - len(weight) + 1
    flow.close(x[channel + 1 :], f"a window slides over it at {flow.place(node)}")
    inputs = flow.couple(x[channel], weight[0])
    if groups == 1:
        outputs = weight[1]
    else:
        size = node.meta["val"].shape[channel]
        outputs = flow.ledger.fresh(int(size))
        _grouped(flow, node, inputs, outputs, weight[1], groups, transposed=True)
    flow.make(node, outputs)
    _bias(flow, node, outputs)
    return (*x[:channel], outputs, *_windows(flow, node, x, channel))


def _counted(flow: Flow, node: fx.Node) -> Value:
    """As many groups as a dynamic size says, as where the batch is folded into the channels."""
    reason = f"the batch is folded into channels: the groups of {flow.place(node)} are not fixed"
    for tensor in tensors_in(node):
        flow.close(flow.of(tensor), reason)
    return opaque(node, reason)


def _windows(flow: Flow, node: fx.Node, x: Value, channel: int) -> list[Axis]:
    return [Opaque(f"it is an axis of {flow.place(node)}")] * (len(x) - channel - 1)


def _grouped(
    flow: Flow,
    node: fx.Node,
    inputs: Axis,
    outputs: Axis,
    each: Axis,
    groups: int,
    transposed: bool = False,
) -> None:
    """Join what a grouped convolution's groups need; `each`: the axis of one group's channels.

    First is tried what leaves more to choose from: groups, or the channels of one.
    """
    assert is_ids(outputs)
    ways = [True, False] if is_ids(each) else [True]
    if is_ids(each) and len(each) > groups:
        ways = ways[::-1]
    whole = ways[flow.decide(node, len(ways), outputs)]
    rows = outputs.reshape(groups, -1)
    known = inputs.reshape(groups, -1) if is_ids(inputs) else None
    if whole:
        heads = flow.ledger.join_rows(rows)
        if known is None:
            flow.couple(heads, inputs)
        else:
            flow.ledger.join(flow.ledger.join_rows(known), heads)
        return
    assert is_ids(each)
    flow.ledger.join_rows(rows.T)
    if known is not None:
        flow.ledger.join_rows(known.T)
    inner = rows if transposed else known
    if inner is None:
        flow.couple(each, inputs)
    else:
        flow.ledger.join(inner, each[None, :])


def matrices(flow: Flow, node: fx.Node) -> Value:
    """x [..., n, k] times y [..., k, m]; vectors as torch takes them, the axes before go along."""
    x, y = flow.of(node.args[-2]), flow.of(node.args[-1])
    if len(y) == 1:
        flow.couple(x[-1], y[0])
        return x[:-1]
    flow.couple(x[-1], y[-2])
    if len(x) == 1:
        return (*y[:-2], y[-1])
    rank = max(len(x), len(y))
    batch = [
        along(flow, one, other)
        for one, other in zip(stretched(x, rank)[:-2], stretched(y, rank)[:-2], strict=True)
    ]
    if isinstance(node.args[-1], fx.Node) and node.args[-1].op == "get_attr":
        flow.weight(node.args[-1], inputs=len(y) - 2, outputs=len(y) - 1)
        flow.make(node, y[-1])
    return (*batch, x[-2], y[-1])


def along(flow: Flow, one: Axis, other: Axis) -> Axis:
    """Two axes that meet position by position, where a size of 1 stretches."""
    if one is ONE or other is ONE:
        return other if one is ONE else one
    return flow.couple(one, other)


def plus_matrices(flow: Flow, node: fx.Node) -> Value:
    """bias + x @ y: addmm, baddbmm."""
    found = matrices(flow, node)
    bias = flow.of(node.args[0])
    for axis, result in zip(stretched(bias, len(found)), found, strict=True):
        along(flow, axis, result)
    return found


def batch_norm(flow: Flow, node: fx.Node) -> Value:
    """One mean and variance for each channel on axis 1; instance norm, too.

    Where they are taken from the values, all of those must stay: a weight that is standardized so
    (Brock et al., 2021) is another one with fewer inputs.
    """
    x = flow.of(node.args[0])
    reason = f"mean and variance are taken over it at {flow.place(node)}"
    if kind(node) == "instance_norm" and argument(node, "use_input_stats"):
        flow.close(x[2:], reason)
    if kind(node) == "batch_norm" and argument(node, "training"):
        flow.close((x[0], *x[2:]), reason)
    for argument_ in node.args[1:5]:
        if isinstance(argument_, fx.Node):
            flow.couple(flow.of(argument_)[0], x[1])
    return x


def layer_norm(flow: Flow, node: fx.Node) -> Value:
    """The last axes of a sample, normalised together; RMS norm, too."""
    x = flow.of(node.args[0])
    for name in ("weight", "bias"):
        if name == "bias" and len(node.args) < 4:
            continue
        tensor = argument(node, name)
        if isinstance(tensor, fx.Node):
            own = flow.of(tensor)
            for axis, theirs in zip(x[-len(own) :], own, strict=True):
                along(flow, axis, theirs)
    return x


def group_norm(flow: Flow, node: fx.Node) -> Value:
    """Axis 1 in groups, each normalised by its own statistics: a group stays or goes whole.

    One group is a layer norm over the whole sample.
    """
    x, groups = flow.of(node.args[0]), node.args[1]
    assert isinstance(groups, int)
    for name in ("weight", "bias"):
        tensor = argument(node, name)
        if isinstance(tensor, fx.Node):
            flow.couple(flow.of(tensor)[0], x[1])
    if groups > 1 and is_ids(x[1]):
        flow.ledger.join_rows(x[1].reshape(groups, -1))
    return x


def parametric(flow: Flow, node: fx.Node) -> Value:
    """PReLU: a slope for each channel on axis 1, or one for all."""
    x, slope = flow.of(node.args[0]), flow.of(node.args[1])
    if len(slope) and len(x) > 1:
        along(flow, slope[0], x[1])
    return x


def embedding(flow: Flow, node: fx.Node) -> Value:
    """A row of weight [words, width] for each index."""
    weight, index = flow.weight(node.args[0], inputs=0, outputs=1), flow.of(node.args[1])
    flow.keep(node, weight[0], "its rows are looked up by number")
    flow.make(node, weight[1])
    return (*index, weight[1])

"""Labels through a whole graph: a rule for each operator, and one for all that have none.

An operator without a rule is not guessed at: what has channels and goes in must stay, with the
operator's name and line for the reason. A decision that left nothing to remove is taken back, once,
and the graph is run through again.
"""

from __future__ import annotations

import operator as python
from collections.abc import Callable

import torch
from torch import fx

from burnish.graph._channels import attention, einsum, layers, pieces, pointwise, recurrent, views
from burnish.graph._channels.axis import Opaque, Value, Values
from burnish.graph._channels.flow import Flow, Heads, kind, opaque, own_labels, sizes, tensors_in
from burnish.graph._channels.ledger import Settled

aten = torch.ops.aten
Rule = Callable[[Flow, fx.Node], Values | None]

_BY_NAME: dict[str, Rule] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), layers.convolution),
    **dict.fromkeys(
        ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), layers.transposed
    ),
    "linear": layers.linear,
    **dict.fromkeys(("matmul", "mm", "bmm"), layers.matrices),
    "einsum": einsum.einsum,
    **dict.fromkeys(("addmm", "baddbmm"), layers.plus_matrices),
    **dict.fromkeys(("batch_norm", "instance_norm"), layers.batch_norm),
    **dict.fromkeys(("layer_norm", "rms_norm"), layers.layer_norm),
    "group_norm": layers.group_norm,
    "prelu": layers.parametric,
    "embedding": layers.embedding,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), recurrent.recurrent),
    "scaled_dot_product_attention": attention.attention,
    **dict.fromkeys(("softmax", "log_softmax", "_softmax", "cumsum"), attention.mixing),
    **dict.fromkeys(
        ("mean", "sum", "amax", "amin", "var", "std", "all", "any", "linalg_vector_norm"),
        pointwise.reduction,
    ),
    **dict.fromkeys(
        (
            *("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
            *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
            *("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"),
            *("upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d"),
            *("upsample_trilinear3d", "_upsample_nearest_exact2d", "_upsample_bilinear2d_aa"),
        ),
        pointwise.windowed,
    ),
    **dict.fromkeys(
        (
            *("max_pool2d_with_indices", "adaptive_max_pool1d", "adaptive_max_pool2d"),
            *("adaptive_max_pool3d", "max_pool1d_with_indices"),
        ),
        pointwise.windowed_pair,
    ),
    **dict.fromkeys(
        (
            *("contiguous", "clone", "alias", "detach", "lift_fresh_copy", "dropout"),
            *("alpha_dropout", "feature_dropout", "to", "_to_copy", "type_as"),
            *("zero", "fill"),
        ),
        pointwise.repeated,
    ),
    **dict.fromkeys(("unsqueeze",), views.unsqueezed),
    **dict.fromkeys(("squeeze",), views.squeezed),
    **dict.fromkeys(("expand", "expand_as"), views.expanded),
    **dict.fromkeys(("repeat", "tile"), views.tiled),
    "repeat_interleave": views.interleaved,
    "pixel_shuffle": views.pixels_from_channels,
    "pixel_unshuffle": views.channels_from_pixels,
    **dict.fromkeys(("cat", "concat", "concatenate"), pieces.concatenated),
    "stack": pieces.stacked,
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split"), pieces.parts),
    "unbind": pieces.unbound,
    "select": pieces.selected,
    "slice": pieces.sliced,
    **dict.fromkeys(("index", "index_select"), pieces.looked_up),
    **dict.fromkeys(("pad", "constant_pad_nd"), pieces.padded),
    "roll": pieces.turned,
    "glu": pieces.gated,
    # torch forgot to tag these two.
    **dict.fromkeys(("hardswish", "log_sigmoid"), pointwise.pointwise),
}
_CREATED = frozenset(
    {"zeros", "ones", "full", "new_zeros", "new_ones", "new_full", "zeros_like", "ones_like"}
)
_ATTEMPTS = 4


def propagate(module: fx.GraphModule, heads: Heads) -> tuple[Flow, Settled]:
    """Run the labels through, again where a decision left nothing to remove."""
    ways: dict[fx.Node, int] = {}
    shuffles = views.find_shuffles(module)
    for _ in range(_ATTEMPTS):
        flow = Flow(module, heads, ways, shuffles=shuffles)
        _run(flow)
        settled = flow.ledger.settle()
        bad = {
            node: decision.taken + 1
            for node, decision in flow.decisions.items()
            if decision.taken + 1 < decision.ways and len(settled.free(decision.ids)) < 2
        }
        if not bad:
            break
        ways = {**ways, **bad}
    return flow, settled


def _run(flow: Flow) -> None:
    inner = {node for shuffle in flow.shuffles.values() for node in shuffle.inner}
    own: dict[str, Value] = {}
    for node in flow.module.graph.nodes:
        if node.op == "get_attr":
            if not isinstance(node.meta.get("val"), torch.Tensor):
                continue
            target = str(node.target)
            if target not in own:
                own[target] = own_labels(flow, node)
            flow.values[node] = own[target]
        elif node.op == "placeholder":
            flow.values[node] = opaque(node, f"it is the input {node.name}")
        elif node.op == "output":
            for end in node.all_input_nodes:
                flow.close(_all_axes(flow, end), "it is an output of the model")
        elif node in inner:
            flow.values[node] = opaque(node, "it is put into another order")
        else:
            flow.values[node] = _called(flow, node)


def _all_axes(flow: Flow, node: fx.Node) -> Value:
    values = flow.values.get(node, ())
    if isinstance(values, list):
        return tuple(axis for value in values for axis in value)
    return values


def _called(flow: Flow, node: fx.Node) -> Values:
    if node.target is python.getitem:
        values = flow.values[node.args[0]]  # type: ignore[index]
        assert isinstance(values, list)
        return values[node.args[1]]  # type: ignore[index]
    result = node.meta.get("val")
    several = isinstance(result, list | tuple)
    if not several and not isinstance(result, torch.Tensor):
        return ()
    rule = _rule(flow, node)
    found = None if rule is None else rule(flow, node)
    if found is not None:
        return found
    for tensor in node.all_input_nodes:
        flow.close(_all_axes(flow, tensor), f"no rule is known for {flow.place(node)}")
    reason = f"it comes from {flow.place(node)}, for which no rule is known"
    if several:
        return [_opaque(value, reason) for value in node.meta["val"]]
    return opaque(node, reason)


def _opaque(value: object, reason: str) -> Value:
    return tuple(Opaque(reason) for _ in getattr(value, "shape", ()))


def _rule(flow: Flow, node: fx.Node) -> Rule | None:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return None
    if target in views.VIEWS or node in flow.shuffles:
        return views.view
    if views.permutation(node) is not None:
        return views.transposition
    name = kind(node)  # an operator in place does to labels what it does to a copy
    if name in _CREATED:
        return _created
    rule = _BY_NAME.get(name)
    if rule is not None:
        return rule
    if torch.Tag.pointwise in target.tags:
        return pointwise.pointwise
    return None if tensors_in(node) else _unlabelled


def _created(flow: Flow, node: fx.Node) -> Value:
    """The same value everywhere: any part of it may go."""
    return tuple(
        flow.ledger.fresh(size) if isinstance(size, int) and size > 1 else Opaque("it is made here")
        for size in sizes(node)
    )


def _unlabelled(flow: Flow, node: fx.Node) -> Value:
    """Made of nothing but sizes: positions, random numbers."""
    return opaque(node, f"it is made at {flow.place(node)}")

"""The same graph with channels masked instead of removed: what `shrink` must equal.

What makes a channel is set to zero: rows, biases, the weight and bias of normalisations. What reads
it is left alone wherever a masked channel holds nothing, or a constant that `shrink` folds into the
reader's bias (`remains`); elsewhere the channel is masked once more, right before it is read. A
layer norm (a group norm of one group) takes its statistics over the channels that are left, as it
will when the others are gone: that is written out as operators.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from burnish.graph._channels.axis import ids_of, is_ids
from burnish.graph._channels.einsum import summed
from burnish.graph._channels.flow import Flow, argument, kind
from burnish.graph._channels.groups import Alive, Channels
from burnish.graph._channels.norms import write_out
from burnish.graph._channels.remains import remains
from burnish.graph._edit import add_tensor, finish, tensor_of
from burnish.graph._trace import Traced

aten = torch.ops.aten
_PADDED = ("conv1d", "conv2d", "conv3d")


@dataclass(frozen=True, eq=False)
class Read:
    """A layer that reads masked channels which hold something.

    Args:
        node: the layer.
        source: what it reads.
        axis: of the channels, in the source.
        constant: what they hold, where it can be folded into the layer's bias; otherwise None.
    """

    node: fx.Node
    source: fx.Node
    axis: int
    constant: float | None


def readers(flow: Flow, alive: Alive) -> Iterator[Read]:
    """The layers that would see more than zeros from masked channels."""
    held = remains(flow)
    for node in flow.module.graph.nodes:
        for source, axis in _contracted(flow, node):
            label = flow.of(source)[axis]
            ids = ids_of(label)
            known: Any = held[source]
            value = known[axis]
            if alive[ids].all() or value == 0 or source.op == "get_attr":
                continue
            foldable = value is not None and is_ids(label) and _folds(node)
            yield Read(node, source, axis, value if foldable else None)


def _contracted(flow: Flow, node: fx.Node) -> list[tuple[fx.Node, int]]:
    """The tensors and axes over which an operator sums."""
    name = kind(node)
    first = node.args[0] if node.args else None
    if name in ("matmul", "mm", "bmm", "addmm", "baddbmm"):
        x, y = node.args[-2:]
        assert isinstance(x, fx.Node) and isinstance(y, fx.Node)
        return [(x, -1), (y, -2 if len(flow.of(y)) > 1 else -1)]
    if name == "einsum":
        return summed(node)
    if not isinstance(first, fx.Node) or first not in flow.values:
        return []
    if name in ("linear", "lstm", "gru", "rnn_tanh", "rnn_relu"):
        return [(first, -1)]
    if name == "scaled_dot_product_attention":
        return [(first, -1)]
    if name.startswith("conv"):
        return [(first, len(flow.of(first)) - len(flow.of(argument(node, "weight"))) + 1)]
    return []


def _folds(node: fx.Node) -> bool:
    """Whether a constant input is a constant output: a layer with a weight and no zero padding."""
    weight = argument(node, "weight") if node.target is aten.linear.default else None
    if weight is None:
        if kind(node) not in _PADDED or argument(node, "groups") != 1:
            return False
        padding = argument(node, "padding")
        if padding == "same" or (padding != "valid" and any(np.ravel(padding))):
            return False
        weight = argument(node, "weight")
    bias = argument(node, "bias")
    own = isinstance(weight, fx.Node) and weight.op == "get_attr"
    return own and (bias is None or (isinstance(bias, fx.Node) and bias.op == "get_attr"))


def mask_channels(channels: Channels, removed: Mapping[str, Sequence[int]]) -> Traced:
    """The graph with the numbered channels of the named groups masked.

    Raises:
        InvalidInput: as for `shrink_channels`.
    """
    alive = channels.alive(removed)
    flow = channels.flow
    masked = channels.traced.copy()
    module = masked.graph_module
    pairs = dict(zip(flow.module.graph.nodes, list(module.graph.nodes), strict=True))
    _zero(flow, alive, module, pairs)
    for read in readers(flow, alive):
        if read.constant is None:
            _mask_before(flow, alive, module, pairs, read)
    for old, new in pairs.items():
        write_out(flow, alive, module, old, new)
    finish(module)
    return masked


def _zero(
    flow: Flow, alive: Alive, module: fx.GraphModule, pairs: Mapping[fx.Node, fx.Node]
) -> None:
    done: set[str] = set()
    for old, new in pairs.items():
        tensor = tensor_of(module, new)
        name = str(new.target)
        if tensor is None or name in done or old not in flow.values:
            continue
        done.add(name)
        if not tensor.is_floating_point() or _is_statistic(old):
            continue
        for axis, label in enumerate(flow.of(old)):
            key = (name, axis)
            if key in flow.reads and key not in flow.writes:
                continue
            dead = np.flatnonzero(~alive[ids_of(label)])
            if len(dead):
                with torch.no_grad():
                    tensor.index_fill_(axis, torch.from_numpy(dead).to(tensor.device), 0)


def _is_statistic(node: fx.Node) -> bool:
    """Whether it is only read as a batch-norm's running mean or variance."""
    return all(
        user.target is aten.batch_norm.default and node in user.args[3:5] for user in node.users
    )


def _mask_before(
    flow: Flow,
    alive: Alive,
    module: fx.GraphModule,
    pairs: Mapping[fx.Node, fx.Node],
    read: Read,
) -> None:
    reader, source = pairs[read.node], pairs[read.source]
    value = source.meta["val"]
    lives = alive[ids_of(flow.of(read.source)[read.axis])]
    shape = [1] * value.dim()
    shape[read.axis] = -1
    with module.graph.inserting_before(reader):
        name = f"{flow.names[read.node]}_mask"
        tensor = torch.from_numpy(lives).to(value.dtype).reshape(shape)
        mask = add_tensor(module, name, tensor)
        product = module.graph.call_function(aten.mul.Tensor, (source, mask))
    mask.meta["val"], product.meta["val"] = value.new_empty(tensor.shape), value
    reader.replace_input_with(source, product)

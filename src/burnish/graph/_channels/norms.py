"""Norms over channels that are partly masked, written out as operators.

A layer norm's mean and variance are over all channels of a sample. With zeros in the place of some
they would be others than without: so in a masked graph they are weighted means, with no weight on
what is masked. The same for an RMS norm, and for a group norm of one group, whose statistics are
over pixels as well. (A group norm of several groups loses whole groups, whose statistics are their
own.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from burnish.graph._channels.axis import is_ids
from burnish.graph._channels.flow import Flow, argument
from burnish.graph._channels.groups import Alive
from burnish.graph._edit import add_tensor

aten = torch.ops.aten
_KINDS: dict[Any, str] = {
    aten.layer_norm.default: "layer",
    aten.rms_norm.default: "rms",
    aten.group_norm.default: "group",
}


def write_out(flow: Flow, alive: Alive, module: fx.GraphModule, old: fx.Node, new: fx.Node) -> None:
    """Replace `new`, if it is a norm with masked channels, by operators that leave them out."""
    kind = _KINDS.get(old.target)
    if kind is None or (kind == "group" and argument(old, "num_groups") > 1):
        return
    rank = new.meta["val"].dim()
    axes, pixels = [1], list(range(2, rank))
    if kind != "group":
        axes, pixels = list(range(rank - len(argument(old, "normalized_shape")), rank)), []
    lives = _living(flow, alive, old, axes)
    if lives.all():
        return
    with module.graph.inserting_before(new):
        share = lives.to(new.meta["val"].dtype) / lives.sum()
        share = share.reshape([*lives.shape, *[1] * len(pixels)])
        weights = add_tensor(module, f"{flow.names[old]}_share", share)
        result = _normalized(new, kind, weights, axes, pixels)
    result.meta["val"] = new.meta["val"]
    new.replace_all_uses_with(result)
    module.graph.erase_node(new)


def _living(flow: Flow, alive: Alive, old: fx.Node, axes: list[int]) -> torch.Tensor:
    """Which positions on the normalised axes live."""
    value = old.meta["val"]
    lives = torch.ones([value.shape[axis] for axis in axes], dtype=torch.bool)
    for place, axis in enumerate(axes):
        label = flow.of(old)[axis]
        if is_ids(label):
            shape = [-1 if other == place else 1 for other in range(len(axes))]
            lives &= torch.from_numpy(alive[label]).reshape(shape)
    return lives


def _normalized(
    new: fx.Node, kind: str, weights: fx.Node, axes: list[int], pixels: list[int]
) -> fx.Node:
    """The norm by its formula, means weighted over `axes` and plain over `pixels`."""

    def call(target: Any, *args: Any) -> fx.Node:
        return new.graph.call_function(target, args)

    def mean(node: fx.Node) -> fx.Node:
        found = call(aten.sum.dim_IntList, call(aten.mul.Tensor, node, weights), axes, True)
        return call(aten.mean.dim, found, pixels, True) if pixels else found

    x: Any = new.args[0]
    if kind != "rms":
        x = call(aten.sub.Tensor, x, mean(x))
    eps = argument(new, "eps")
    if eps is None:
        eps = torch.finfo(new.meta["val"].dtype).eps
    power = call(aten.add.Tensor, mean(call(aten.mul.Tensor, x, x)), eps)
    result = call(aten.mul.Tensor, x, call(aten.rsqrt.default, power))
    for name, target in (("weight", aten.mul.Tensor), ("bias", aten.add.Tensor)):
        tensor = None if (kind, name) == ("rms", "bias") else argument(new, name)
        if isinstance(tensor, fx.Node):
            if pixels:
                tensor = call(aten.reshape.default, tensor, [-1, *[1] * len(pixels)])
            result = call(target, result, tensor)
    return result

"""Multiplying an operator's output channels, or dividing its input channels, in its own tensors.

Left out: operators that share a tensor with another; the callers leave those alone.
"""

from __future__ import annotations

import torch
from torch import fx

from burnish.graph import add_tensor, operator, scale_outputs, set_weight, tensor_of
from burnish.quantize._graphs.node import groups_of

_NORM_WEIGHT, _NORM_BIAS = 2, 3


def scale_made(module: fx.GraphModule, node: fx.Node, factor: torch.Tensor) -> None:
    """Multiply the channels that a weighted operator or a normalisation makes by `factor`."""
    if operator(node) in ("layer_norm", "rms_norm"):
        _scale_norm(module, node, factor)
        return
    weight = tensor_of(module, node.args[1])
    assert weight is not None
    bias = tensor_of(module, node.args[2]) if len(node.args) > 2 else None
    transposed = operator(node).startswith("conv_transpose")
    scaled = scale_outputs(weight.double(), factor.double(), transposed, groups_of(node))
    moved = None if bias is None else (bias.double() * factor.double()).to(bias.dtype)
    set_weight(module, node, scaled.to(weight.dtype), moved)


def scale_read(module: fx.GraphModule, node: fx.Node, factor: torch.Tensor) -> None:
    """Multiply the weights by `factor` for each input channel: it undoes channels divided by it."""
    weight = tensor_of(module, node.args[1])
    assert weight is not None
    bias = tensor_of(module, node.args[2]) if len(node.args) > 2 else None
    shaped = weight.double() * input_shaped(node, weight, factor.double())
    set_weight(module, node, shaped.to(weight.dtype), bias)


def input_shaped(node: fx.Node, weight: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """A vector over input channels, shaped to multiply the weight of a weighted operator."""
    trailing = [1] * (weight.dim() - 2)
    if operator(node).startswith("conv_transpose"):
        return vector.reshape(-1, 1, *trailing)
    groups = groups_of(node)
    # [out, in/groups, …]: output channel o reads the inputs of its own group.
    per_group = vector.reshape(groups, 1, -1)
    spread = per_group.expand(groups, weight.shape[0] // groups, per_group.shape[-1])
    return spread.reshape(weight.shape[0], -1, *trailing)


def input_reach(node: fx.Node, weight: torch.Tensor) -> torch.Tensor:
    """The largest magnitude of the weights that read each input channel."""
    size = weight.detach().abs().double()
    if operator(node).startswith("conv_transpose"):
        return size.flatten(1).amax(1)
    groups = groups_of(node)
    return (
        size.reshape(groups, -1, *weight.shape[1:]).flatten(3).amax(3).amax(1).reshape(-1)
        if weight.dim() > 2
        else size.reshape(groups, -1, weight.shape[1]).amax(1).reshape(-1)
    )


def output_reach(node: fx.Node, weight: torch.Tensor) -> torch.Tensor:
    """The largest magnitude of the weights that make each output channel."""
    size = weight.detach().abs().double()
    if operator(node).startswith("conv_transpose"):
        grouped = size.reshape(groups_of(node), -1, *weight.shape[1:])
        return grouped.flatten(3).amax((1, 3)).reshape(-1)
    return size.flatten(1).amax(1)


def _scale_norm(module: fx.GraphModule, node: fx.Node, factor: torch.Tensor) -> None:
    args = list(node.args)
    with module.graph.inserting_before(node):
        for index in (_NORM_WEIGHT, _NORM_BIAS):
            tensor = tensor_of(module, args[index]) if len(args) > index else None
            if tensor is not None and not isinstance(args[index], float):
                scaled = (tensor.double() * factor.double()).to(tensor.dtype)
                args[index] = add_tensor(module, f"{node.name}_{index}", scaled)
    node.args = tuple(args)

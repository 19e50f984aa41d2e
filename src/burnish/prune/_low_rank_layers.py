"""Which layers of a traced model a product of two smaller ones can stand for, and why others not.

A layer is an operator that multiplies with a stored weight. A linear layer and a convolution
without groups are a matrix, [out, in · kernel]: those are free, where nobody else reads that
weight or its bias. In a module there is more to ask, because there a layer is replaced as an
object: it has to be one of torch's own, and its weight must be read by calling it, not by code
beside it (`nn.MultiheadAttention` reads its `out_proj` that way).

Left out: transposed convolutions, groups, recurrent layers, embeddings: named with the reason.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from burnish.graph import Traced, operator, operator_names, source_line, tensor_of
from burnish.prune._cost import of_one_sample
from burnish.prune._settings import left_alone

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
FREE = ("linear", *CONVOLUTIONS)
_KINDS = frozenset(
    {
        *("linear", *CONVOLUTIONS, "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
        *("matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "embedding"),
        *("lstm", "gru", "rnn_tanh", "rnn_relu"),
    }
)
_MODULES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
IN_GRAPH = "trace the model first to have it factorized in the graph"


@dataclass(frozen=True, eq=False)
class Layer:
    """An operator with a weight.

    `weight` is the tensor it multiplies with (of several the largest), `bias` what it adds, if
    anything; `positions` how often its matrix is applied for one sample; `reason` why it is left
    alone, or "".
    """

    name: str
    node: fx.Node
    weight: torch.Tensor
    bias: torch.Tensor | None
    positions: float
    reason: str

    @property
    def path(self) -> str:
        """The module it stands in."""
        return self.name.rpartition(":")[0]

    @property
    def outputs(self) -> int:
        """The rows of its matrix."""
        return len(self.weight)

    @property
    def inputs(self) -> int:
        """The columns of its matrix."""
        return math.prod(self.weight.shape[1:])

    @property
    def full_rank(self) -> int:
        """The most that its matrix can have."""
        return min(self.outputs, self.inputs)


def layers_of(traced: Traced, ignore: Sequence[str]) -> tuple[Layer, ...]:
    """Every operator with a stored weight, in order.

    Raises:
        InvalidInput: an entry of `ignore` that matches nothing.
    """
    module = traced.graph_module
    names = operator_names(module)
    readers = _readers(module, names)
    found = []
    for node, name in names.items():
        weight = _weight(module, node)
        if weight is not None:
            bias = tensor_of(module, node.args[2]) if len(node.args) > 2 else None
            reason = _placed(_reason(module, node, readers), node)
            found.append(Layer(name, node, weight, bias, _positions(node), reason))
    wish = left_alone({layer.name: (layer.name,) for layer in found}, ignore)
    return tuple(
        replace(layer, reason=wish[layer.name]) if layer.name in wish else layer for layer in found
    )


def _weight(module: fx.GraphModule, node: fx.Node) -> torch.Tensor | None:
    """The largest matrix that an operator multiplies with; None where it does no such thing."""
    if node.op != "call_function" or operator(node) not in _KINDS:
        return None
    if operator(node) in FREE:
        stored = tensor_of(module, node.args[1])
        weight: Any = node.args[1]
        return weight.meta["val"] if stored is None else stored
    tensors = [tensor_of(module, source) for source in node.all_input_nodes]
    matrices = [tensor for tensor in tensors if tensor is not None and tensor.dim() > 1]
    return max(matrices, key=torch.Tensor.numel, default=None)


def _placed(reason: str, node: fx.Node) -> str:
    """A reason with the line of the user's code, where that is known."""
    line = source_line(node)
    return f"{reason} ({line})" if reason and line else reason


def _readers(module: fx.GraphModule, names: Mapping[fx.Node, str]) -> dict[int, list[str]]:
    """Who reads each stored tensor, by its id: tied tensors are one."""
    found: dict[int, list[str]] = {}
    for node in module.graph.nodes:
        tensor = tensor_of(module, node)
        if tensor is not None:
            readers = [names.get(user, "the output") for user in node.users]
            found.setdefault(id(tensor), []).extend(readers)
    return found


def _reason(module: fx.GraphModule, node: fx.Node, readers: Mapping[int, Sequence[str]]) -> str:
    kind = operator(node)
    if kind not in FREE:
        return "only linear layers and convolutions are factorized"
    weight = tensor_of(module, node.args[1])
    if weight is None:
        return "its weight is computed, not stored: take masks and parametrizations off first"
    if not weight.is_floating_point():
        return f"its weight is {weight.dtype}, not of floats"
    if len(readers[id(weight)]) > 1:
        return f"its weight is shared: {_listed(readers[id(weight)])} read it"
    groups: Any = node.args[6] if len(node.args) > 6 else 1
    if groups != 1:
        return f"it has {groups} groups"
    bias = node.args[2] if len(node.args) > 2 else None
    stored = tensor_of(module, bias)
    if bias is not None and stored is None:
        return "its bias is computed, not stored"
    if stored is not None and len(readers[id(stored)]) > 1:
        return f"its bias is shared: {_listed(readers[id(stored)])} read it"
    return ""


def _listed(names: Sequence[str]) -> str:
    told = [
        f"{name} ({times} times)" if times > 1 else name for name, times in Counter(names).items()
    ]
    return ", ".join(told[:4]) + (" and others" if len(told) > 4 else "")


def _positions(node: fx.Node) -> float:
    """Outputs of each channel, of one sample."""
    value = node.meta["val"]
    if not isinstance(value, torch.Tensor):
        return 0.0
    kind = operator(node)
    axis = value.dim() - int(kind[-2]) - 1 if kind in CONVOLUTIONS else value.dim() - 1
    return math.prod(of_one_sample(s) for place, s in enumerate(value.shape) if place != axis)


def in_module(layers: Sequence[Layer], model: nn.Module) -> tuple[Layer, ...]:
    """The same layers, those left alone that cannot be replaced as objects of `model`."""
    return tuple(
        layer
        if layer.reason
        else replace(layer, reason=_placed(_in_module(layer, model), layer.node))
        for layer in layers
    )


def _in_module(layer: Layer, model: nn.Module) -> str:
    owner, source = model.get_submodule(layer.path), layer.node.args[1]
    assert isinstance(source, fx.Node)
    target = str(source.target).removeprefix("model.")
    if model.get_parameter(target) is not getattr(owner, "weight", None):  # it may have two names
        return f"its weight, {target}, is not read by calling a layer of its own; {IN_GRAPH}"
    if type(owner) not in _MODULES:
        return f"it is a {type(owner).__name__}, not one of torch's own layers; {IN_GRAPH}"
    if owner._forward_hooks or owner._forward_pre_hooks:
        return f"it has hooks, which would be lost; take them off, or {IN_GRAPH}"
    return ""

"""Which layers of a damaged network can be repaired from its original, and where both stand.

A layer is a convolution or linear whose weight is stored, with the batch-norm right behind it where
that alone reads it: the two are one linear map, repaired as one and compared behind the
batch-norm, so that one that was folded into the weights compares with one that was not. A layer and
its original are found by the operator's name (module path, operator, occurrence).

Every other operator with a stored weight is told with the reason it is left alone.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from burnish.graph import operator, operator_names, tensor_of

_BATCH_NORM = torch.ops.aten.batch_norm.default
CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d"})


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer that can be repaired: its node, its batch-norm, and where the original's output is.

    `own` holds the positions of the arguments that nobody else reads, "weight" and "bias" of the
    node, "gain" and "shift" of the batch-norm: what a repair may write.
    """

    name: str
    node: fx.Node
    norm: fx.Node | None
    original: fx.Node
    own: frozenset[str]


def find_layers(
    module: fx.GraphModule, original: fx.GraphModule, stored: frozenset[str] | None
) -> tuple[list[Layer], dict[str, str]]:
    """The layers of `module` that can be repaired, in order, and why the others cannot, by name.

    `stored` holds the names a module gives its tensors; None where the graph is all there is.
    """
    theirs = {name: node for node, name in operator_names(original).items()}
    writable = _writable(module, stored)
    found: list[Layer] = []
    left: dict[str, str] = {}
    for node, name in operator_names(module).items():
        if not _has_weight(module, node):
            continue
        norm = _norm_behind(module, node)
        reason = _refusal(module, node, norm, original, theirs.get(name), writable)
        if reason:
            left[name] = reason
            continue
        target = theirs[name]
        own = frozenset(
            part
            for part, argument in _arguments(node, norm).items()
            if isinstance(argument, fx.Node) and str(argument.target) in writable
        )
        found.append(Layer(name, node, norm, _norm_behind(original, target) or target, own))
    return found, left


def _arguments(node: fx.Node, norm: fx.Node | None) -> dict[str, Any]:
    parts = {"weight": node.args[1], "bias": node.args[2] if len(node.args) > 2 else None}
    return parts if norm is None else {**parts, "gain": norm.args[1], "shift": norm.args[2]}


def tensors_of(module: fx.GraphModule, layer: Layer) -> dict[str, torch.Tensor]:
    """The tensors of a layer by part; "mean" and "variance" are its batch-norm's."""
    parts = _arguments(layer.node, layer.norm)
    if layer.norm is not None:
        parts |= {"mean": layer.norm.args[3], "variance": layer.norm.args[4]}
    found = {part: tensor_of(module, argument) for part, argument in parts.items()}
    return {part: tensor for part, tensor in found.items() if tensor is not None}


def stored_name(layer: Layer, part: str) -> str:
    """Where the graph stores a part of a layer."""
    return str(_arguments(layer.node, layer.norm)[part].target)


def _has_weight(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether an operator reads a parameter of two dimensions or more, or should."""
    if node.op != "call_function":
        return False
    if operator(node) in CONVOLUTIONS or operator(node) == "linear":
        return True
    stored = (tensor_of(module, source) for source in node.all_input_nodes)
    return any(isinstance(tensor, nn.Parameter) and tensor.dim() > 1 for tensor in stored)


def _norm_behind(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The batch-norm in eval mode that alone reads a layer, over the layer's own channels."""
    users = list(node.users)
    if len(users) != 1 or users[0].target is not _BATCH_NORM or users[0].args[5]:
        return None
    weight, statistics = tensor_of(module, node.args[1]), tensor_of(module, users[0].args[3])
    same_axis = weight is not None and node.meta["val"].dim() == weight.dim()
    return users[0] if same_axis and statistics is not None else None


def _writable(module: fx.GraphModule, stored: frozenset[str] | None) -> frozenset[str]:
    """The names of stored tensors that one operator alone reads."""
    readers: Counter[int] = Counter()
    names: dict[str, int] = {}
    for node in module.graph.nodes:
        tensor = tensor_of(module, node)
        if tensor is not None:
            readers[id(tensor)] += len(node.users)
            names[str(node.target)] = id(tensor)
    return frozenset(
        name
        for name, key in names.items()
        if readers[key] == 1 and (stored is None or own_name(name) in stored)
    )


def own_name(name: str) -> str:
    """What the user's module calls a tensor of its graph: the tracer holds it as "model"."""
    return name.removeprefix("model.")


def _refusal(
    module: fx.GraphModule,
    node: fx.Node,
    norm: fx.Node | None,
    original: fx.GraphModule,
    theirs: fx.Node | None,
    writable: frozenset[str],
) -> str:
    """Why a layer is left alone; "" where it can be repaired."""
    if operator(node) not in CONVOLUTIONS | {"linear"}:
        return f"repair knows convolutions and linear layers, no {operator(node)}"
    weight = tensor_of(module, node.args[1])
    if weight is None or not weight.is_floating_point():
        return "its weight is computed in the graph (stored as integers, or masked at each call)"
    assert isinstance(node.args[1], fx.Node)
    if str(node.args[1].target) not in writable:
        return "its weight is read by several layers, or is no tensor of the module's own"
    if operator(node) in CONVOLUTIONS and node.meta["val"].dim() != weight.dim():
        return "it is called without a batch"
    if theirs is None:
        return "the original has no layer of that name"
    wanted = tensor_of(original, theirs.args[1])
    if wanted is None:
        return "the original's weight is computed in its graph"
    if wanted.shape != weight.shape:
        return f"its weight is {list(weight.shape)}, the original's {list(wanted.shape)}"
    if norm is not None and _norm_behind(original, theirs) is None:
        return "the original has no batch-norm behind it"
    return ""

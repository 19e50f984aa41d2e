"""Two layers in the place of one: in the user's own class as a `nn.Sequential`, or in a graph.

A convolution of k x k becomes one of k x k to as many channels as the rank, with its stride and
padding, and one of 1 x 1. The names are the same in both forms: `conv.weight` becomes
`conv.0.weight` and `conv.1.weight`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from burnish.core import Choices, copied_model
from burnish.errors import InvalidInput
from burnish.graph import Traced, finish, operator, operator_names, tensor_of
from burnish.prune._low_rank_layers import FREE
from burnish.prune._low_rank_spectrum import Factors

Parts = Mapping[str, Factors]


def tensors_of(parts: Parts) -> dict[str, torch.Tensor]:
    """Factors, under the names by which choices keep them."""
    found: dict[str, torch.Tensor] = {}
    for name, part in parts.items():
        found |= {f"{name}/first": part.first, f"{name}/second": part.second}
        if part.bias is not None:
            found[f"{name}/bias"] = part.bias
    return found


def parts_of(choices: Choices) -> dict[str, Factors]:
    """The factors that choices keep, by layer."""
    tensors = choices.tensors
    return {
        name: Factors(
            tensors[f"{name}/first"], tensors[f"{name}/second"], tensors.get(f"{name}/bias")
        )
        for name in choices.plan["ranks"]
    }


def factorize_module(model: nn.Module, parts: Parts) -> nn.Module:
    """A copy of a module with layers replaced, by the operators' names.

    Raises:
        InvalidInput: it has no such layer, or one of another shape.
    """
    copied = copied_model(model)
    for name, part in parts.items():
        path = name.rpartition(":")[0]
        try:
            old = copied.get_submodule(path)
        except AttributeError as error:
            raise _stranger(name) from error
        if not isinstance(old, nn.Linear | nn.modules.conv._ConvNd):
            raise _stranger(name)
        _check(name, old.weight, part)
        new = _two(old, part)
        if not path:
            return new
        owners = [(p, m) for p, m in copied.named_modules(remove_duplicate=False) if m is old]
        for known, _ in owners:  # a layer may go by several names
            copied.set_submodule(known, new)
    return copied


def _two(old: nn.Linear | nn.modules.conv._ConvNd, part: Factors) -> nn.Sequential:
    rank, outputs = len(part.first), len(part.second)
    kind: Any = type(old)
    bias = part.bias is not None
    # On "meta": nothing is drawn at random.
    if isinstance(old, nn.Linear):
        first = kind(old.in_features, rank, bias=False, device="meta")
        second = kind(rank, outputs, bias=bias, device="meta")
    else:
        first = kind(
            old.in_channels,
            rank,
            old.kernel_size,
            old.stride,
            old.padding,
            old.dilation,
            bias=False,
            padding_mode=old.padding_mode,
            device="meta",
        )
        second = kind(rank, outputs, 1, bias=bias, device="meta")
    first.weight, second.weight = _like(old.weight, part.first), _like(old.weight, part.second)
    if part.bias is not None:
        second.bias = _like(old.weight, part.bias)
    return nn.Sequential(first, second).train(old.training)


def _like(old: torch.Tensor, value: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().clone().to(old.device), requires_grad=old.requires_grad)


def factorize_graph(traced: Traced, parts: Parts) -> Traced:
    """A copy of a traced model with layers replaced, by name.

    Raises:
        InvalidInput: it has no such layer, or one of another shape.
    """
    copied = traced.copy()
    module = copied.graph_module
    nodes = {name: node for node, name in operator_names(module).items()}
    for name, part in parts.items():
        node = nodes.get(name)
        weight = tensor_of(module, node.args[1]) if node and operator(node) in FREE else None
        if node is None or weight is None:
            raise _stranger(name)
        _check(name, weight, part)
        _replace(module, node, weight, part)
    finish(module)
    return copied


def _replace(module: fx.GraphModule, node: fx.Node, weight: torch.Tensor, part: Factors) -> None:
    source, read = node.args[:2]
    assert isinstance(source, fx.Node)
    assert isinstance(read, fx.Node)
    stem = _emptied(module, str(read.target))
    with module.graph.inserting_before(node):
        first = _stored(module, f"{stem}.0.weight", part.first, weight)
        second = _stored(module, f"{stem}.1.weight", part.second, weight)
        bias = None
        if part.bias is not None:
            bias = _stored(module, f"{stem}.1.bias", part.bias, weight)
        for tensor in (first, second, bias):
            if tensor is not None:
                stored = tensor_of(module, tensor)
                assert stored is not None
                tensor.meta["val"] = node.meta["val"].new_empty(stored.shape)
        inner = module.graph.call_function(node.target, (source, first, None, *node.args[3:]))  # type: ignore[arg-type]
    inner.meta = {**node.meta, "val": _narrow(node, len(part.first))}
    if operator(node) == "linear":
        node.args = (inner, second, bias)
    else:
        ones = [1] * (weight.dim() - 2)
        node.target = getattr(torch.ops.aten, operator(node)).default
        node.args = (inner, second, bias, ones, [0] * len(ones), ones, 1)
    module.graph.erase_node(read)
    inner.meta["nn_module_stack"] = _below(node, stem, "0")
    node.meta["nn_module_stack"] = _below(node, stem, "1")


def _narrow(node: fx.Node, rank: int) -> torch.Tensor:
    """What the first of two layers gives."""
    value: torch.Tensor = node.meta["val"]
    axis = value.dim() - 1
    if operator(node) != "linear":
        axis -= int(operator(node)[-2])
    return value.new_empty([rank if a == axis else size for a, size in enumerate(value.shape)])


def _below(node: fx.Node, stem: str, leaf: str) -> dict[str, tuple[str, Any]]:
    """The modules a node stands in, and one more."""
    stack = dict(node.meta.get("nn_module_stack") or {})
    path = stem.removeprefix("model").removeprefix(".")
    own = list(stack.values())[-1][0] if stack else ""
    if own != path:  # code beside the layer reads it: both are named after that
        return stack
    name = f"{path}.{leaf}".removeprefix(".")
    return {**stack, name: (name, nn.Module)}


def _emptied(module: fx.GraphModule, name: str) -> str:
    """Where two layers' tensors go, once the one's weight is gone."""
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    delattr(owner, leaf)
    alone = leaf == "weight" and path and not list(owner.children())
    return path if alone else name


def _stored(module: fx.GraphModule, name: str, value: torch.Tensor, like: torch.Tensor) -> fx.Node:
    """A tensor of the graph, one to train where the one before was."""
    path, _, leaf = name.rpartition(".")
    owner: nn.Module = module
    for part in path.split("."):
        if not hasattr(owner, part):
            owner.add_module(part, nn.Module())
        owner = getattr(owner, part)
    new = value.detach().clone().to(like.device)
    if isinstance(like, nn.Parameter):
        owner.register_parameter(leaf, nn.Parameter(new, requires_grad=like.requires_grad))
    else:
        owner.register_buffer(leaf, new)
    return module.graph.get_attr(name)


def _check(name: str, weight: torch.Tensor, part: Factors) -> None:
    shape = (len(part.second), *part.first.shape[1:])
    if tuple(weight.shape) != shape:
        raise InvalidInput(
            f"this plan factorizes {name!r} of shape {shape}, and the model's has "
            f"{tuple(weight.shape)}: it belongs to another model"
        )


def _stranger(name: str) -> InvalidInput:
    return InvalidInput(f"this plan factorizes {name!r}, which the model does not have")

"""Reading and editing an exported graph: names, tensors, batch-norm.

Plans name operators by module path, operator and occurrence ("layer1.0.conv1:conv2d",
"layer1.0:add#2"), because graph node names change between versions of torch. Tensors of the graph
are `get_attr` nodes; a tensor read by several nodes (tied weights, a module called twice) is never
edited in place: the editor gives its node a copy of its own, and says so in the name.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import torch
from torch import fx, nn

aten = torch.ops.aten
_CONVOLUTIONS = frozenset(
    {
        *(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.linear.default),
        *(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding),  # "same", "valid"
    }
)
_TRANSPOSED = frozenset(
    {
        aten.conv_transpose1d.default,
        aten.conv_transpose2d.input,
        aten.conv_transpose3d.input,
    }
)


def operator(node: fx.Node) -> str:
    """The operator's short name: "conv2d", "add"."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[1]
    return getattr(target, "__name__", str(target))


def module_path(node: fx.Node) -> str:
    """The path of the user's module the node came from; "" for the model itself."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    # The second call of a module is marked "@1".
    return re.sub(r"@\d+", "", str(list(stack.values())[-1][0]))


def operator_names(module: fx.GraphModule) -> dict[fx.Node, str]:
    """A stable name for each operator and input of the graph."""
    names: dict[fx.Node, str] = {}
    seen: Counter[str] = Counter()
    for node in module.graph.nodes:
        if node.op == "placeholder":
            names[node] = f"input:{len(names)}"
        elif node.op == "call_function":
            path = module_path(node)
            name = f"{path}:{operator(node)}" if path else operator(node)
            seen[name] += 1
            names[node] = name if seen[name] == 1 else f"{name}#{seen[name]}"
    return names


def tensor_of(module: fx.GraphModule, node: Any) -> torch.Tensor | None:
    """The tensor a `get_attr` node reads; None for anything else."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    owner, leaf = _owner(module, str(node.target))
    value = getattr(owner, leaf)
    return value if isinstance(value, torch.Tensor) else None


def add_tensor(module: fx.GraphModule, name: str, tensor: torch.Tensor) -> fx.Node:
    """Register a buffer and give a `get_attr` node for it at the graph's insertion point."""
    stem = "burnish_" + "".join(c if c.isalnum() else "_" for c in name)
    unique, number = stem, 2
    while hasattr(module, unique):
        unique, number = f"{stem}_{number}", number + 1
    module.register_buffer(unique, tensor.detach().clone())
    return module.graph.get_attr(unique)


def finish(module: fx.GraphModule) -> None:
    """Drop dead nodes and unread tensors, check, and recompile after an edit."""
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    read = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    tensors = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    for name, _ in tensors:
        # A branch of a torch.cond is a module that is read whole.
        parts = name.split(".")
        if not any(".".join(parts[:length]) in read for length in range(1, len(parts) + 1)):
            owner, leaf = _owner(module, name)
            delattr(owner, leaf)
    module.graph.lint()
    module.recompile()


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return module.get_submodule(path), leaf


def fold_batch_norm(module: fx.GraphModule) -> list[str]:
    """Fold batch-norm in eval mode into the convolution or linear before it, in place.

    Only where the convolution feeds nothing else, and where all tensors of both are constants.
    Returns the names of the operators that took a batch-norm in.
    """
    names = operator_names(module)
    folded = []
    for node in list(module.graph.nodes):
        if node.target is aten.batch_norm.default and _foldable(module, node):
            folded.append(names[node.args[0]])
            _fold(module, node.args[0], node)
    finish(module)
    return folded


def _foldable(module: fx.GraphModule, norm: fx.Node) -> bool:
    """Both end in the same channels, nobody else reads between, and every tensor is a constant."""
    conv, training = norm.args[0], norm.args[5]
    if training or not isinstance(conv, fx.Node) or len(conv.users) != 1:
        return False
    if conv.target not in _CONVOLUTIONS | _TRANSPOSED:
        return False
    weight = tensor_of(module, conv.args[1])
    if weight is None or any(tensor_of(module, norm.args[i]) is None for i in (3, 4)):
        return False
    optional = [norm.args[1], norm.args[2], *conv.args[2:3]]
    if any(arg is not None and tensor_of(module, arg) is None for arg in optional):
        return False
    # Batch-norm takes axis 1 for the channels. A linear over [n, length, features] has them last,
    # a convolution without a batch has them first.
    return bool(conv.meta["val"].dim() == weight.dim())


def _fold(module: fx.GraphModule, conv: fx.Node, norm: fx.Node) -> None:
    weight, mean, var = (
        tensor_of(module, arg) for arg in (conv.args[1], norm.args[3], norm.args[4])
    )
    assert weight is not None and mean is not None and var is not None
    gamma, beta = (tensor_of(module, norm.args[i]) for i in (1, 2))
    eps = norm.args[7]
    assert isinstance(eps, float)
    factor = (var.double() + eps).rsqrt()
    if gamma is not None:
        factor = factor * gamma.double()
    old_bias = tensor_of(module, conv.args[2]) if len(conv.args) > 2 else None
    bias = (0.0 if old_bias is None else old_bias.double()) - mean.double()
    bias = bias * factor
    if beta is not None:
        bias = bias + beta.double()
    transposed = conv.target in _TRANSPOSED
    groups = conv.args[6] if transposed and len(conv.args) > 6 else 1
    assert isinstance(groups, int)
    scaled = scale_outputs(weight.double(), factor, transposed, groups)
    set_weight(module, conv, scaled.to(weight.dtype), bias.to(weight.dtype))
    norm.replace_all_uses_with(conv)
    module.graph.erase_node(norm)


def scale_outputs(
    weight: torch.Tensor, factor: torch.Tensor, transposed: bool, groups: int
) -> torch.Tensor:
    """A weight with each output channel multiplied by `factor` [out channels].

    Convolution and linear weights are [out, in/groups, ...]; transposed ones [in, out/groups, ...].
    """
    if not transposed:
        return weight * factor.reshape(-1, *[1] * (weight.dim() - 1))
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    shaped = factor.reshape(groups, 1, -1, *[1] * (weight.dim() - 2))
    return (grouped * shaped).reshape(weight.shape)


def set_weight(
    module: fx.GraphModule, node: fx.Node, weight: torch.Tensor, bias: torch.Tensor | None
) -> None:
    """Give a convolution or linear tensors of its own, leaving those it shared untouched."""
    name = operator_names(module)[node]
    args = list(node.args)
    with module.graph.inserting_before(node):
        args[1] = add_tensor(module, f"{name}_weight", weight)
        if bias is not None:
            new = add_tensor(module, f"{name}_bias", bias)
            args = [*args[:2], new, *args[3:]]
    node.args = tuple(args)

"""Masks on weights: `name_orig` and `name_mask`, as torch.nn.utils.prune has them, or in a graph.

A masked module keeps the weight it was trained with as the parameter `weight_orig`, the mask as the
buffer `weight_mask`, and computes their product in each call: it can be trained on, saved, looked
at, and taken off again by `remove`. In a graph the product is an operator; the names are the same.
Modules are torch's own doing: whoever knows torch.nn.utils.prune knows these.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx, nn
from torch.nn.utils import prune

from burnish.core import copied_model
from burnish.errors import InvalidInput, NoEffect
from burnish.graph import Traced, finish

aten = torch.ops.aten


def apply_masks(model: nn.Module, masks: Mapping[str, torch.Tensor]) -> None:
    """Mask the parameters named, in place. A mask on top of a mask keeps what both keep.

    Raises:
        InvalidInput: the model has no such parameter, or one of another shape.
    """
    for name, mask in masks.items():
        if isinstance(model, Traced):
            _in_graph(model.graph_module, name, mask)
            continue
        path, _, leaf = name.rpartition(".")
        try:
            module = model.get_submodule(path)
            value = getattr(module, leaf)
        except AttributeError as error:
            raise InvalidInput(
                f"this plan masks {name!r}, which the model does not have"
            ) from error
        _check(name, value, mask)
        if f"{leaf}_orig" in module._parameters:
            old = module.get_buffer(f"{leaf}_mask")
            both = old * mask.to(old)
            setattr(module, f"{leaf}_mask", both)
            setattr(module, leaf, module.get_parameter(f"{leaf}_orig") * both)
            continue
        prune.custom_from_mask(module, leaf, mask.to(value.device))  # type: ignore[no-untyped-call]


def _check(name: str, value: torch.Tensor, mask: torch.Tensor) -> None:
    if value.shape != mask.shape:
        raise InvalidInput(
            f"this plan masks {name!r} of shape {tuple(mask.shape)}, and the model's has "
            f"{tuple(value.shape)}: it belongs to another model"
        )


def _in_graph(module: fx.GraphModule, name: str, mask: torch.Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    try:
        owner = module.get_submodule(path)
        if f"{leaf}_mask" in owner._buffers:
            old = owner.get_buffer(f"{leaf}_mask")
            _check(name, old, mask)
            setattr(owner, f"{leaf}_mask", old * mask.to(old))
            return
        value = owner.get_parameter(leaf)
    except AttributeError as error:
        raise InvalidInput(f"this plan masks {name!r}, which the model has not") from error
    _check(name, value, mask)
    delattr(owner, leaf)
    owner.register_parameter(f"{leaf}_orig", value)
    owner.register_buffer(f"{leaf}_mask", mask.to(value))
    for node in list(module.graph.nodes):
        if node.op == "get_attr" and node.target == name:
            _multiply(module.graph, node, name)
    finish(module)


def _multiply(graph: fx.Graph, node: fx.Node, name: str) -> None:
    """Give the readers of a weight its product with its mask."""
    readers = list(node.users)
    node.target = f"{name}_orig"
    with graph.inserting_after(node):
        mask = graph.get_attr(f"{name}_mask")
    with graph.inserting_after(mask):
        product = graph.call_function(aten.mul.Tensor, (node, mask))
    mask.meta, product.meta = {**node.meta}, {**node.meta}
    for reader in readers:
        reader.replace_input_with(node, product)


def is_masked(model: nn.Module) -> bool:
    """Whether any weight carries a mask."""
    return bool(masks_of(model))


def masks_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """The masks a model carries, by the name the parameter had."""
    prefix = "graph_module." if isinstance(model, Traced) else ""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {
        name.removeprefix(prefix).removesuffix("_mask"): buffer
        for name, buffer in model.named_buffers()
        if name.endswith("_mask") and f"{name.removesuffix('_mask')}_orig" in parameters
    }


def remove_masks(model: nn.Module) -> nn.Module:
    """A copy in which the zeros are part of the weights and nothing is masked any more.

    Raises:
        NoEffect: no weight carries a mask.
    """
    if not is_masked(model):
        raise NoEffect("remove_masks: no weight of this model carries a mask")
    copied = copied_model(model)
    if not isinstance(copied, Traced):
        for module in copied.modules():
            for hook in list(module._forward_pre_hooks.values()):
                if isinstance(hook, prune.BasePruningMethod):
                    prune.remove(module, hook._tensor_name)  # type: ignore[no-untyped-call]
        return copied
    graph = copied.graph_module.graph
    masks = {f"{name}_mask" for name in masks_of(copied)}
    for node in list(graph.nodes):
        if node.op != "get_attr" or node.target not in masks:
            continue
        (product,) = node.users
        original = product.args[0]
        assert isinstance(original, fx.Node)
        _make_permanent(copied.graph_module, str(original.target), str(node.target))
        product.replace_all_uses_with(original)
        original.target = str(original.target).removesuffix("_orig")
    finish(copied.graph_module)
    return copied


def _make_permanent(module: fx.GraphModule, original: str, mask: str) -> None:
    path, _, leaf = original.rpartition(".")
    owner = module.get_submodule(path)
    name = leaf.removesuffix("_orig")
    if name in owner._parameters:
        return  # read by several nodes: done with the first
    value = owner.get_parameter(leaf)
    product = value.detach() * module.get_buffer(mask)
    delattr(owner, leaf)
    owner.register_parameter(name, nn.Parameter(product, requires_grad=value.requires_grad))

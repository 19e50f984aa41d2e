"""Putting a cast's plan into a graph: conversions where labels differ, tensors in the small type.

A value and those that read it in the other type are joined by one conversion behind the value; a
stored tensor is stored in its label's type. Nodes keep the names they had in the float graph.

Assertions about the type of a value go: what they assert of floats was true of the float graph.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from burnish.core import Choices
from burnish.graph import Traced, add_tensor, finish, operator, operator_names, tensor_of
from burnish.quantize._cast.label import (
    DTYPES,
    constant_name,
    constants,
    float_readers,
    holds_float32,
)
from burnish.quantize._graphs.entry import check_planned
from burnish.quantize._graphs.node import is_list
from burnish.quantize._static.insert import NAME_KEY

_TO = torch.ops.aten._to_copy.default


def insert_casts(folded: Traced, choices: Choices) -> Traced:
    """Cast a folded graph, in place. InvalidInput for a plan of another model."""
    module, plan = folded.graph_module, choices.plan
    names = operator_names(module)
    stored = {constant_name(names, nodes): nodes for nodes in constants(module)}
    check_planned({*names.values(), *stored}, (*plan["operators"], *plan["stored"]))
    dtype, operators = DTYPES[plan["dtype"]], set(plan["operators"])
    small = {node for node, name in names.items() if name in operators}
    small |= {node for name in plan["stored"] for node in stored[name]}
    values = [n for n in module.graph.nodes if holds_float32(module, n) and not is_list(n)]
    for node, name in names.items():
        node.meta[NAME_KEY] = name
        asserts = operator(node) == "_assert_tensor_metadata"
        if asserts and any(holds_float32(module, source) for source in node.all_input_nodes):
            module.graph.erase_node(node)
    merged = [_merge(nodes) for nodes in stored.values()]
    for node in values:
        if node.op == "get_attr" and node not in merged:
            continue
        label = torch.float32 if node not in small else dtype
        others = [reader for reader in float_readers(node) if (reader in small) != (node in small)]
        if others:
            other = dtype if label == torch.float32 else torch.float32
            _convert(module, node, others, other, names.get(node))
    for node in small:
        if node.op == "call_function":
            node.meta["val"] = _typed(node.meta["val"], dtype)
    for name in plan["stored"]:
        _store(module, stored[name][0], name, dtype)
    finish(module)
    return folded


def _merge(nodes: list[fx.Node]) -> fx.Node:
    """One node for all that read a tensor: the first stands before every reader."""
    first, *rest = nodes
    for node in rest:
        node.replace_all_uses_with(first)
        node.graph.erase_node(node)
    return first


def _convert(
    module: fx.GraphModule,
    node: fx.Node,
    others: list[fx.Node],
    dtype: torch.dtype,
    name: str | None,
) -> None:
    last = node
    while last.next.op == "placeholder":
        last = last.next
    with module.graph.inserting_before(last.next):
        converted = module.graph.call_function(_TO, (node,), {"dtype": dtype})
    converted.meta["nn_module_stack"] = node.meta.get("nn_module_stack")
    if name is not None:
        converted.meta[NAME_KEY] = f"{name}:to_{str(dtype).removeprefix('torch.')}"
    if "val" in node.meta:
        converted.meta["val"] = _typed(node.meta["val"], dtype)
    for reader in others:
        reader.replace_input_with(node, converted)


def _store(module: fx.GraphModule, node: fx.Node, name: str, dtype: torch.dtype) -> None:
    tensor = tensor_of(module, node)
    assert tensor is not None
    with module.graph.inserting_before(node):
        new = add_tensor(module, name, tensor.detach().to(dtype))
    if "val" in node.meta:
        new.meta["val"] = _typed(node.meta["val"], dtype)
    node.replace_all_uses_with(new)
    module.graph.erase_node(node)


def _typed(value: Any, dtype: torch.dtype) -> Any:
    """A value's stand-in in another float type."""
    if isinstance(value, list | tuple):
        return type(value)(_typed(part, dtype) for part in value)
    if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
        return value.to(dtype)
    return value

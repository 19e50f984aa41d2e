"""Putting a plan into a graph: what `QuantizeStatic.rewrite` does.

For each value of the plan a quantize and a dequantize node are inserted behind it, for all its
readers or for those named. Weights become int8 tensors behind a dequantize node, biases int32 ones.
A ReLU or ReLU6 whose quantizer saturates at the same bounds or inside them is dropped: the
quantizer does its work. A linear layer on more than two axes becomes a matrix product and an
addition, with the weight stored transposed, because runtimes match that form to int8 kernels.

Quantizers go in before weights are replaced: a plan names the operators of the float graph. Every
node keeps the name it had there in its `meta`, which exporters hand on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from burnish.core import Choices
from burnish.errors import InvalidInput
from burnish.graph import (
    DEQUANTIZE,
    PER_TENSOR,
    QUANTIZE,
    Traced,
    add_tensor,
    finish,
    operator,
    operator_names,
    tensor_of,
)
from burnish.quantize._decide import gained
from burnish.quantize._node import bounds, rectifies, stored_matrix, weight_axis
from burnish.quantize._policy import PRODUCTS, WEIGHTED
from burnish.quantize._weights import round_bias, round_weight, weight_scales

aten = torch.ops.aten
NAME_KEY = "burnish"


def insert(folded: Traced, choices: Choices) -> Traced:
    """Quantize a folded graph, in place. InvalidInput for a plan of another model."""
    module = folded.graph_module
    plan = choices.plan
    nodes = {name: node for node, name in operator_names(module).items()}
    unknown = [n for n in (*plan["operators"], *plan["quantizers"]) if n not in nodes]
    if unknown:
        raise InvalidInput(
            f"this plan names operators the model does not have ({', '.join(unknown[:3])}): it "
            "belongs to another model"
        )
    for name, node in nodes.items():
        node.meta[NAME_KEY] = name
    inputs = _input_params(nodes, plan)
    for _, activation, _ in plan["equalized"]:
        if activation is not None:
            _rectify(nodes[activation])
    for name, entry in plan["quantizers"].items():
        readers = None if entry["readers"] is None else [nodes[r] for r in entry["readers"]]
        _quantize_value(module, nodes[name], name, entry, readers)
    up, down = _gains(choices)
    for name in plan["operators"]:
        node = nodes[name]
        if operator(node) in WEIGHTED:
            bias = choices.tensors.get(f"bias:{name}")
            _quantize_weights(module, node, name, inputs[name], bias, up, down)
        elif operator(node) in PRODUCTS and stored_matrix(module, node) is not None:
            _quantize_matrix(module, node, name)
    finish(module)
    return folded


def _gains(choices: Choices) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    up, down = {}, {}
    for producer, _, depthwise in choices.plan["equalized"]:
        up[producer] = down[depthwise] = choices.tensors[f"gain:{producer}"]
    return up, down


def _input_params(
    nodes: Mapping[str, fx.Node], plan: Mapping[str, Any]
) -> dict[str, Mapping[str, Any]]:
    """The quantizer each weighted operator reads through, climbing over what moves data."""
    names = {node: name for name, node in nodes.items()}
    found = {}
    for name in plan["operators"]:
        if operator(nodes[name]) not in WEIGHTED:
            continue
        source = nodes[name].args[0]
        while isinstance(source, fx.Node) and names[source] not in plan["quantizers"]:
            source = source.args[0]
            # All that a concatenation without a quantizer of its own reads has one scale.
            source = source[0] if isinstance(source, list | tuple) else source
        assert isinstance(source, fx.Node), name
        found[name] = plan["quantizers"][names[source]]
    return found


def _quantize_weights(
    module: fx.GraphModule,
    node: fx.Node,
    name: str,
    source: Mapping[str, Any],
    corrected: torch.Tensor | None,
    up: Mapping[str, torch.Tensor],
    down: Mapping[str, torch.Tensor],
) -> None:
    weight = tensor_of(module, node.args[1])
    assert weight is not None, name
    bias = tensor_of(module, node.args[2]) if len(node.args) > 2 else None
    weight, bias = gained(weight, bias, up.get(name), down.get(name))
    if corrected is not None:
        bias = corrected
    axis = weight_axis(node)
    scale = weight_scales(weight, axis, bias, source["scale"])
    integers = round_weight(weight, scale, axis)
    args = list(node.args)
    as_product = operator(node) == "linear" and node.meta["val"].dim() > 2
    with module.graph.inserting_before(node):
        if as_product:
            _replace_linear(module, node, name, integers, scale, bias)
            return
        args[1] = _dequantized(module, f"{name}_weight", integers, scale, axis)
        if bias is not None:
            grid = scale.double() * source["scale"]
            if axis is None:
                grid = grid.expand(bias.shape[0])
            rounded = round_bias(bias, source["scale"], scale)
            new = _dequantized(module, f"{name}_bias", rounded, grid.float(), 0)
            args = [*args[:2], new, *args[3:]]
    node.args = tuple(args)


def _quantize_matrix(module: fx.GraphModule, node: fx.Node, name: str) -> None:
    """The stored matrix of `x @ matrix`, per column."""
    matrix = stored_matrix(module, node)
    assert matrix is not None, name
    axis = weight_axis(node)
    scale = weight_scales(matrix, axis, None, 1.0)
    with module.graph.inserting_before(node):
        integers = round_weight(matrix, scale, axis)
        new = _dequantized(module, f"{name}_weight", integers, scale, axis)
    node.args = (node.args[0], new)


def _replace_linear(
    module: fx.GraphModule,
    node: fx.Node,
    name: str,
    integers: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
) -> None:
    """x W^T + b as matmul(x, V) + b with V = W^T stored so."""
    graph = module.graph
    weight = _dequantized(module, f"{name}_weight", integers.t().contiguous(), scale, 1)
    product = graph.call_function(aten.matmul.default, (node.args[0], weight))
    product.meta = dict(node.meta)
    result = product
    if bias is not None:
        offset = add_tensor(module, f"{name}_bias", bias)
        result = graph.call_function(aten.add.Tensor, (product, offset))
        result.meta = dict(node.meta)
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _dequantized(
    module: fx.GraphModule,
    name: str,
    integers: torch.Tensor,
    scale: torch.Tensor,
    axis: int | None,
) -> fx.Node:
    stored = add_tensor(module, name, integers)
    scales = add_tensor(module, f"{name}_scale", scale)
    zeros = add_tensor(module, f"{name}_zero", torch.zeros_like(scale, dtype=integers.dtype))
    where = PER_TENSOR if axis is None else axis
    return module.graph.call_function(DEQUANTIZE, (stored, scales, zeros, where))


def _rectify(node: fx.Node) -> None:
    """ReLU in place of ReLU6: the quantizer behind it saturates at or below the lifted clip."""
    node.target = aten.relu.default
    node.args = node.args[:1]
    node.kwargs = {}


def _quantize_value(
    module: fx.GraphModule,
    node: fx.Node,
    name: str,
    entry: Mapping[str, Any],
    readers: list[fx.Node] | None,
) -> None:
    graph = module.graph
    scale, zero = float(entry["scale"]), int(entry["zero_point"])
    last = node
    while last.next.op == "placeholder":
        last = last.next
    with graph.inserting_before(last.next):
        scales = add_tensor(module, f"{name}_scale", torch.tensor(scale))
        zeros = add_tensor(module, f"{name}_zero", torch.tensor(zero, dtype=torch.uint8))
        whole = readers is None
        source = _unrectified(node, scale, zero) if whole else node
        quantized = graph.call_function(QUANTIZE, (source, scales, zeros, PER_TENSOR))
        real = graph.call_function(DEQUANTIZE, (quantized, scales, zeros, PER_TENSOR))
        for new in (quantized, real):
            new.meta["nn_module_stack"] = node.meta.get("nn_module_stack")
    for user in list(node.users):
        size_query = operator(user).startswith("sym_")
        if user is not quantized and not size_query and (readers is None or user in readers):
            user.replace_input_with(node, real)


def _unrectified(node: fx.Node, scale: float, zero: int) -> fx.Node:
    """What to quantize instead of a rectifier's result, where the quantizer saturates as it does.

    Exact: clamp to [0, c] and then to [0, r] with r <= c is clamp to [0, r].
    """
    found = bounds(node)
    source = node.args[0] if node.args else None
    if found is None or not rectifies(node) or not isinstance(source, fx.Node):
        return node
    return source if zero == 0 and 255 * scale <= found[1] * (1 + 1e-6) else node

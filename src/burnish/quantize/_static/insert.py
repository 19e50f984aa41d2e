"""Putting a plan into a graph: what `QuantizeStatic.rewrite` does.

For each value of the plan a quantize and a dequantize node are inserted behind it, for all its
readers or for those named. Weights become int8 tensors behind a dequantize node, biases int32 ones.
A ReLU or ReLU6 whose quantizer saturates at the same bounds or inside them is dropped: the
quantizer does its work. A linear layer on more than two axes becomes a matrix product and an
addition, with the weight stored transposed, because runtimes match that form to int8 kernels.

Quantizers go in before weights are replaced: a plan names the operators of the float graph. Every
node keeps the name it had there in its `meta`, which exporters hand on. A weight that several
operators share is stored once where their integers and scales agree.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import fx

from burnish.core import Choices
from burnish.graph import (
    DEQUANTIZE,
    PER_TENSOR,
    QUANTIZE,
    Traced,
    add_tensor,
    finish,
    operator,
    set_weight,
    tensor_of,
)
from burnish.quantize._graphs.entry import planned
from burnish.quantize._graphs.node import bias_of, bounds, rectifies, stored_matrix, weight_axis
from burnish.quantize._graphs.patterns import merge_gelus
from burnish.quantize._graphs.policy import WEIGHTED
from burnish.quantize._static.recurrent import insert_recurrent
from burnish.quantize._tensors.weights import Grid, along, round_bias, round_weight, weight_scales

aten = torch.ops.aten
NAME_KEY = "burnish"


def insert(folded: Traced, choices: Choices) -> Traced:
    """Quantize a folded graph, in place. InvalidInput for a plan of another model."""
    nodes = equalized(folded, choices)
    module, plan = folded.graph_module, choices.plan
    inputs = input_params(nodes, plan)
    for name, entry in plan["quantizers"].items():
        readers = None if entry["readers"] is None else [nodes[r] for r in entry["readers"]]
        _quantize_value(module, nodes[name], name, entry, readers)
    store = _Store(module)
    for name in plan["operators"]:
        node = nodes[name]
        if operator(node) in WEIGHTED or stored_matrix(module, node) is not None:
            _quantize_weights(store, node, name, inputs.get(name), choices)
    insert_recurrent(module, nodes, plan.get("recurrent", {}))
    merge_gelus(module)
    finish(module)
    return folded


def equalized(folded: Traced, choices: Choices) -> dict[str, fx.Node]:
    """Name the nodes of a folded graph and put its gains in, in place: still in float.

    Returns:
        The nodes by name. InvalidInput for a plan of another model.
    """
    module, plan = folded.graph_module, choices.plan
    nodes = planned(module, (*plan["operators"], *plan["quantizers"]))
    for name, node in nodes.items():
        node.meta[NAME_KEY] = name
    for producer, activation, depthwise in plan["equalized"]:
        gain = choices.tensors[f"gain:{producer}"]
        _multiply(module, nodes[producer], up=gain)
        _multiply(module, nodes[depthwise], down=gain)
        if activation is not None:
            _rectify(nodes[activation])
    return nodes


def _multiply(
    module: fx.GraphModule,
    node: fx.Node,
    up: torch.Tensor | None = None,
    down: torch.Tensor | None = None,
) -> None:
    weight, bias = tensor_of(module, node.args[1]), bias_of(module, node)
    assert weight is not None
    set_weight(module, node, *gained(weight, bias, up, down))


def gained(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    up: torch.Tensor | None,
    down: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weights and bias of a convolution with equalization gains on its outputs and inputs.

    `up` [out] multiplies output channels, `down` [channels] divides a depthwise input's channels.
    """
    if down is not None:
        weight = (weight.double() / along(down, weight, 0)).to(weight.dtype)
    if up is not None:
        weight = (weight.double() * along(up, weight, 0)).to(weight.dtype)
        bias = None if bias is None else (bias.double() * up).to(bias.dtype)
    return weight, bias


def input_params(
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


def rounded_weight(
    weight: torch.Tensor,
    axis: int | None,
    name: str,
    choices: Choices,
    bias: torch.Tensor | None,
    input_scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The int8 integers and scales of an operator's weight: those decided, or to nearest."""
    if f"weight:{name}" in choices.tensors:
        return choices.tensors[f"weight:{name}"], choices.tensors[f"scale:{name}"]
    grid = Grid(**choices.plan.get("grids", {}).get(name, {}))
    scale = weight_scales(weight, axis, bias, input_scale, grid)
    return round_weight(weight, scale, axis, grid), scale


class _Store:
    """The integers stored so far. Weights that were one tensor in float and agree stay one."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self.known: dict[int, list[tuple[torch.Tensor, torch.Tensor, tuple[fx.Node, ...]]]] = {}

    def dequantized(
        self,
        name: str,
        integers: torch.Tensor,
        scale: torch.Tensor,
        axis: int | None,
        source: torch.Tensor | None = None,
    ) -> fx.Node:
        """A node that dequantizes new integers, or the same ones stored before for `source`."""
        alike = [] if source is None else self.known.setdefault(id(source), [])
        stored = None
        for other, its_scale, nodes in alike:
            if torch.equal(other, integers) and torch.equal(its_scale, scale):
                stored = nodes
        if stored is None:
            zero = torch.zeros_like(scale, dtype=integers.dtype)
            tensors = {"": integers, "_scale": scale, "_zero": zero}
            stored = tuple(add_tensor(self.module, name + end, t) for end, t in tensors.items())
            alike.append((integers, scale, stored))
        where = PER_TENSOR if axis is None else axis
        return self.module.graph.call_function(DEQUANTIZE, (*stored, where))


def _quantize_weights(
    store: _Store,
    node: fx.Node,
    name: str,
    source: Mapping[str, Any] | None,
    choices: Choices,
) -> None:
    """Integers in place of the weight and bias of a convolution, linear or `x @ matrix`."""
    module = store.module
    weight, bias = tensor_of(module, node.args[1]), bias_of(module, node)
    assert weight is not None, name
    bias = choices.tensors.get(f"bias:{name}", bias)
    axis = weight_axis(node)
    input_scale = 1.0 if source is None else source["scale"]
    integers, scale = rounded_weight(weight, axis, name, choices, bias, input_scale)
    args = list(node.args)
    with module.graph.inserting_before(node):
        if becomes_product(node):
            _replace_linear(store, node, name, integers, scale, bias, weight)
            return
        args[1] = store.dequantized(f"{name}_weight", integers, scale, axis, weight)
        if bias is not None:
            grid = scale.double() * input_scale
            if axis is None:
                grid = grid.expand(bias.shape[0])
            rounded = round_bias(bias, input_scale, scale)
            new = store.dequantized(f"{name}_bias", rounded, grid.float(), 0)
            args = [*args[:2], new, *args[3:]]
    node.args = tuple(args)


def becomes_product(node: fx.Node) -> bool:
    """Whether it is a linear on more than two axes: a product, and its bias added in float."""
    return operator(node) == "linear" and bool(node.meta["val"].dim() > 2)


def _replace_linear(
    store: _Store,
    node: fx.Node,
    name: str,
    integers: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    source: torch.Tensor,
) -> None:
    """x W^T + b as matmul(x, V) + b with V = W^T stored so."""
    graph = store.module.graph
    turned = integers.t().contiguous()
    weight = store.dequantized(f"{name}_weight", turned, scale, 1, source)
    product = graph.call_function(aten.matmul.default, (node.args[0], weight))
    product.meta = dict(node.meta)
    result = product
    if bias is not None:
        offset = add_tensor(store.module, f"{name}_bias", bias)
        result = graph.call_function(aten.add.Tensor, (product, offset))
        result.meta = dict(node.meta)
    node.replace_all_uses_with(result)
    graph.erase_node(node)


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
    with graph.inserting_before(behind(node)):
        scales = add_tensor(module, f"{name}_scale", torch.tensor(scale))
        zeros = add_tensor(module, f"{name}_zero", torch.tensor(zero, dtype=torch.uint8))
        source = _unrectified(node, scale, zero) if readers is None else node
        quantized = graph.call_function(QUANTIZE, (source, scales, zeros, PER_TENSOR))
        real = graph.call_function(DEQUANTIZE, (quantized, scales, zeros, PER_TENSOR))
        for new in (quantized, real):
            new.meta["nn_module_stack"] = node.meta.get("nn_module_stack")
    reroute(node, real, readers, but=(quantized,))


def behind(node: fx.Node) -> fx.Node:
    """What follows a node: the place to insert what reads it. Inputs stay together at the front."""
    while node.next.op == "placeholder":
        node = node.next
    return node.next


def reroute(
    node: fx.Node, new: fx.Node, readers: Collection[fx.Node] | None, but: Collection[fx.Node]
) -> None:
    """Let the readers of a value read `new` instead: all or those given, but for size queries.

    `but` names those that made `new` of it.
    """
    for user in list(node.users):
        size_query = operator(user).startswith("sym_")
        if user not in but and not size_query and (readers is None or user in readers):
            user.replace_input_with(node, new)


def _unrectified(node: fx.Node, scale: float, zero: int) -> fx.Node:
    """What to quantize instead of a rectifier's result, where the quantizer saturates as it does.

    Exact: clamp to [0, c] and then to [0, r] with r <= c is clamp to [0, r].
    """
    found = bounds(node)
    source = node.args[0] if node.args else None
    if found is None or not rectifies(node) or not isinstance(source, fx.Node):
        return node
    return source if zero == 0 and 255 * scale <= found[1] * (1 + 1e-6) else node

"""Putting dynamic operators into a graph: what `QuantizeDynamic.rewrite` does.

Weights become int8, one scale for each output channel (each row of a table, each gate's row of a
recurrent layer), and the operator one of `graph`'s own that reads them. A weight is stored once
however many operators read it: a layer called twice, or an embedding whose table is the last
layer's weight, keep what they shared.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import getitem
from typing import Any

import torch
from torch import fx

from burnish.core import Choices
from burnish.graph import (
    DYNAMIC_CONV,
    DYNAMIC_LINEAR,
    DYNAMIC_LSTM,
    LOOKUP,
    STORED_GRU,
    Traced,
    add_tensor,
    finish,
    operator,
)
from burnish.quantize._graphs.entry import planned, refuse_quantized
from burnish.quantize._graphs.recurrent import Recurrent, read, replace
from burnish.quantize._graphs.stored import stored_weight
from burnish.quantize._tensors.weights import grid_of, round_weight, weight_scales

NAME_KEY = "burnish"


def insert_dynamic(folded: Traced, choices: Choices) -> Traced:
    """Quantize a folded graph, in place. InvalidInput for a plan of another model."""
    module = folded.graph_module
    refuse_quantized(folded, "QuantizeDynamic")
    nodes = planned(module, choices.plan["operators"])
    for name, node in nodes.items():
        node.meta[NAME_KEY] = name
    inserter = Inserter(module, bool(choices.plan["half_range"]))
    for name, kind in choices.plan["operators"].items():
        inserter.replace(nodes[name], name, kind)
    finish(module)
    # Integers take no gradients: what comes out is a result, not a step of training.
    folded.requires_grad_(False)
    return folded


class Inserter:
    """Puts dynamic operators in the place of float ones, each weight stored once."""

    def __init__(self, module: fx.GraphModule, half: bool) -> None:
        self.module = module
        self.graph = module.graph
        self.grid = grid_of(8, half)
        self.stored: dict[tuple[Any, ...], tuple[str, ...]] = {}
        self.kept: list[Any] = []

    def replace(self, node: fx.Node, name: str, kind: str) -> None:
        """Replace one operator, of one of `KINDS`."""
        if kind in ("lstm", "gru"):
            self._recurrent(node, name)
            return
        with self.graph.inserting_before(node):
            if kind == "embedding":
                args = (*self._weight(node, name), node.args[1])
                new = self.graph.call_function(LOOKUP, args)
            elif kind == "linear":
                args = (node.args[0], *self._weight(node, name), _argument(node, 2))
                new = self.graph.call_function(DYNAMIC_LINEAR, args)
            else:
                args = (node.args[0], *self._weight(node, name), *_convolution(node))
                new = self.graph.call_function(DYNAMIC_CONV, args)
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        self.graph.erase_node(node)

    def _weight(self, node: fx.Node, name: str) -> tuple[fx.Node, ...]:
        weight = stored_weight(self.module, node)
        assert weight is not None, name

        def make() -> dict[str, torch.Tensor]:
            scale = weight_scales(weight, 0, None, 1.0, self.grid)
            integers = round_weight(weight, scale, 0, self.grid).contiguous()
            return {f"{name}_weight": integers, f"{name}_weight_scale": scale}

        key = (weight.data_ptr(), tuple(weight.shape), weight.stride())
        return self._once(key, weight, make)

    def _once(
        self, key: tuple[Any, ...], source: Any, make: Callable[[], dict[str, torch.Tensor]]
    ) -> tuple[fx.Node, ...]:
        """Nodes that read what was made of a source, which is stored the first time only."""
        if key not in self.stored:
            made = [add_tensor(self.module, name, tensor) for name, tensor in make().items()]
            self.stored[key] = tuple(str(new.target) for new in made)
            self.kept.append(source)  # an address is a key as long as what lives there lives
            return tuple(made)
        return tuple(self.graph.get_attr(target) for target in self.stored[key])

    def _recurrent(self, node: fx.Node, name: str) -> None:
        found = read(self.module, node)
        params: Any = node.args[2]
        source = tuple(str(param.target) for param in params)

        def build(x: fx.Node, states: list[fx.Node], index: int) -> list[fx.Node]:
            tensors = self._once((source, index), None, lambda: self._layer(found, name, index))
            target = DYNAMIC_LSTM if found.kind == "lstm" else STORED_GRU
            new = self.graph.call_function(target, (x, *states, *tensors))
            parts = range(1 + len(states))
            return [self.graph.call_function(getitem, (new, part)) for part in parts]

        replace(self.module, node, found, build)

    def _layer(self, found: Recurrent, name: str, index: int) -> dict[str, torch.Tensor]:
        layer, made = found.layers[index], {}
        for part, weight in (("w", layer.w), ("r", layer.r)):
            rows = weight.flatten(0, 1)
            scale = weight_scales(rows, 0, None, 1.0, self.grid)
            integers = round_weight(rows, scale, 0, self.grid).reshape(weight.shape)
            if found.kind == "lstm":
                integers = integers.transpose(1, 2)
            made[f"{name}_{part}{index}"] = integers.contiguous()
            made[f"{name}_{part}{index}_scale"] = scale.reshape(weight.shape[:2])
        return {**made, f"{name}_bias{index}": layer.bias}


def _argument(node: fx.Node, position: int, default: Any = None) -> Any:
    return node.args[position] if len(node.args) > position else default


def _convolution(node: fx.Node) -> tuple[Any, ...]:
    """Bias, stride, padding (all beginnings, then all ends), dilation and groups."""
    rank = int(node.meta["val"].dim()) - 2
    assert operator(node).startswith("conv")
    stride, dilation = (_spread(_argument(node, at, [1]), rank) for at in (3, 5))
    padding = _argument(node, 4, [0])
    if isinstance(padding, str):
        reach = [d * (k - 1) for d, k in zip(dilation, _kernel(node), strict=True)]
        total = reach if padding == "same" else [0] * rank
        edges = [*(t // 2 for t in total), *(t - t // 2 for t in total)]
    else:
        edges = _spread(padding, rank) * 2
    return _argument(node, 2), stride, edges, dilation, _argument(node, 6, 1)


def _spread(values: Any, rank: int) -> list[int]:
    listed = list(values)
    return listed * rank if len(listed) == 1 else listed


def _kernel(node: fx.Node) -> list[int]:
    weight = node.args[1]
    assert isinstance(weight, fx.Node)
    return [int(size) for size in weight.meta["val"].shape[2:]]

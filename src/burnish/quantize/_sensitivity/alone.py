"""One operator of a plan quantized alone, in a float graph that is otherwise left as it is.

A group is what goes back to float when its operator is excluded: the quantizers of what the
operator reads, its weights and bias, and, where the runtime needs one, the quantizer behind it
and the activation it swallowed. Its weights are read off the quantized graph itself, so that
whatever rounded them is what is looked at; equalization gains are taken in and out again around
the operator.

A quantizer that was lifted over operators that only move data is applied where the operator reads:
rounding each element and moving elements commute, and so do rounding and taking a maximum.

Left out: quantizers shared by two groups are counted in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from burnish.core import Choices
from burnish.graph import DEQUANTIZE, Traced, operator, operator_names, tensor_of
from burnish.quantize._graphs.coverage import FUSED, PASSES
from burnish.quantize._graphs.node import is_float, is_list, readers
from burnish.quantize._graphs.policy import PRODUCTS, policy_for
from burnish.quantize._static.insert import NAME_KEY, insert
from burnish.quantize._tensors.weights import along

Values = Mapping[fx.Node, Any]


@dataclass(frozen=True, eq=False)
class Rounding:
    """A quantizer of activations: scale, zero point, and gains of the channels along `axis`."""

    scale: torch.Tensor
    zero_point: int
    gain: torch.Tensor | None = None
    axis: int = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """What the quantizer makes of x, as floats."""
        lifted = x if self.gain is None else x * along(self.gain, x, self.axis)
        rounded = (lifted / self.scale).round_().add_(self.zero_point).clamp_(0, 255)
        back = rounded.sub_(self.zero_point).mul_(self.scale)
        return back if self.gain is None else back / along(self.gain, x, self.axis)


@dataclass(frozen=True, eq=False)
class Group:
    """An operator with its quantizers.

    `inputs` are the quantizers of what it reads; `layer` its nodes in the quantized graph, with
    `feeds` (the operator's own inputs by what they are there) and `stored` (weights, by the node
    that gives them); `tail` the activations it swallows; `end` the value the group changes.
    """

    name: str
    node: fx.Node
    inputs: Mapping[fx.Node, Rounding]
    layer: tuple[fx.Node, ...]
    feeds: Mapping[fx.Node, fx.Node]
    stored: Mapping[fx.Node, torch.Tensor]
    tail: tuple[fx.Node, ...]
    output: Rounding | None
    gains: tuple[torch.Tensor | None, torch.Tensor | None]

    @property
    def end(self) -> fx.Node:
        """The node of the float graph whose value the group changes."""
        return self.tail[-1] if self.tail else self.node

    def value(self, floats: Values, weights: bool = True, activations: bool = True) -> torch.Tensor:
        """The value at `end` when only this group is quantized, or only part of it.

        Args:
            floats: the float graph's values, of what the operator and its tail read.
            weights: with rounded weights and bias.
            activations: with rounded inputs and output.
        """
        given = dict(floats)
        if activations:
            given |= {source: rounding(floats[source]) for source, rounding in self.inputs.items()}
        result = self._rounded(given) if weights else compute(self.node, given)
        given[self.node] = result
        for node in self.tail:
            given[node] = result = compute(node, given)
        if activations and self.output is not None:
            result = self.output(result)
        assert isinstance(result, torch.Tensor)
        return result

    def _rounded(self, given: Values) -> torch.Tensor:
        up, down = self.gains
        values: dict[fx.Node, Any] = dict(self.stored)
        for node, source in self.feeds.items():
            x = given[source]
            values[node] = x if down is None else x * along(down, x, channel_axis(self.node, x))
        for node in self.layer:
            values[node] = compute(node, values)
        result = values[self.layer[-1]]
        assert isinstance(result, torch.Tensor)
        if up is not None:
            result = result / along(up, result, channel_axis(self.node, result))
        return result


def compute(node: fx.Node, values: Values) -> Any:
    """Call an operator with the values of what it reads."""
    args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), lambda source: values[source])
    return node.target(*args, **kwargs)  # type: ignore[operator]


def channel_axis(node: fx.Node, x: torch.Tensor) -> int:
    """The channel axis of a convolution's input or output."""
    return x.dim() - 1 - int(operator(node)[-2])


def groups(folded: Traced, choices: Choices) -> tuple[list[Group], tuple[str, ...]]:
    """The groups of a plan, in the order of the graph; their nodes are those of `folded`.

    With them the operators that are no group: they give several values (LSTM, GRU), or read others
    once they are quantized.
    """
    grouping = _Grouping(folded, choices)
    found = grouping.groups()
    return found, tuple(grouping.left_out)


class _Grouping:
    def __init__(self, folded: Traced, choices: Choices) -> None:
        self.plan = choices.plan
        self.module = folded.graph_module
        self.names = operator_names(self.module)
        self.states = {row["operator"]: row["state"] for row in self.plan["coverage"]}
        self.left_out: list[str] = []
        self.up = {}
        self.down = {}
        for producer, _, depthwise in self.plan["equalized"]:
            self.up[producer] = self.down[depthwise] = choices.tensors[f"gain:{producer}"].float()
        self.int8 = insert(folded.copy(), choices).graph_module
        self.layers: dict[str, list[fx.Node]] = {}
        for node in self.int8.graph.nodes:
            if node.op == "call_function" and NAME_KEY in node.meta:
                self.layers.setdefault(node.meta[NAME_KEY], []).append(node)

    def groups(self) -> list[Group]:
        wanted = set(self.plan["operators"])
        found = [self._group(node, name) for node, name in self.names.items() if name in wanted]
        return [group for group in found if group is not None]

    def _group(self, node: fx.Node, name: str) -> Group | None:
        layer = self.layers.get(name, [])
        stored: dict[fx.Node, torch.Tensor] = {}
        outer: list[fx.Node] = []
        for part in layer:
            for source in part.all_input_nodes:
                tensor = self._stored(source)
                if tensor is not None:
                    stored[source] = tensor
                elif source not in layer and source not in outer:
                    outer.append(source)
        sources = [s for s in node.all_input_nodes if tensor_of(self.module, s) is None]
        if not layer or is_list(node) or len(outer) != len(sources):
            self.left_out.append(name)
            return None
        tail, output = self._output(node, name)
        found = {source: self._input(source, node) for source in sources}
        return Group(
            name,
            node,
            {source: rounding for source, rounding in found.items() if rounding is not None},
            tuple(layer),
            dict(zip(outer, sources, strict=True)),
            stored,
            tail,
            output,
            (self.up.get(name), self.down.get(name)),
        )

    def _stored(self, node: fx.Node) -> torch.Tensor | None:
        """What a node of the quantized graph gives, where that does not depend on the input."""
        if node.target is DEQUANTIZE:
            parts = [tensor_of(self.int8, arg) for arg in node.args[:3]]
            if all(part is not None for part in parts):
                value = DEQUANTIZE(*parts, node.args[3])
                assert isinstance(value, torch.Tensor)
                return value
        return tensor_of(self.int8, node)

    def _output(self, node: fx.Node, name: str) -> tuple[tuple[fx.Node, ...], Rounding | None]:
        """The activations up to the quantizer behind the operator, and that quantizer."""
        if not policy_for(self.plan["runtime"]).outputs:
            return (), None
        tail, end = [], node
        while self.names[end] not in self.plan["quantizers"]:
            after = readers(end)
            if len(after) != 1 or self.states.get(self.names.get(after[0], "")) != FUSED:
                return (), None
            end = after[0]
            tail.append(end)
        if not tail and operator(node) in PRODUCTS | {"linear"}:
            return (), None  # hands out floats as readily: that quantizer is its readers'
        gain = self.up.get(name)
        axis = 0 if gain is None else channel_axis(node, node.meta["val"])
        return tuple(tail), self._rounding(self.names[end], gain, axis)

    def _input(self, source: fx.Node, reader: fx.Node) -> Rounding | None:
        """The quantizer an operator reads through; None where it reads this input in float."""
        gain = self.down.get(self.names[reader])
        axis = 0 if gain is None else channel_axis(reader, source.meta["val"])
        while source in self.names:
            name = self.names[source]
            entry = self.plan["quantizers"].get(name)
            if entry is not None:
                seen = entry["readers"] is None or self.names[reader] in entry["readers"]
                return self._rounding(name, gain, axis) if seen else None
            joins = operator(source) == "cat" and name in self.plan["operators"]
            if self.states.get(name) != PASSES and not joins:
                return None
            reader, source = source, next(s for s in source.all_input_nodes if is_float(s))
        return None

    def _rounding(self, value: str, gain: torch.Tensor | None, axis: int) -> Rounding:
        entry = self.plan["quantizers"][value]
        return Rounding(torch.tensor(float(entry["scale"])), int(entry["zero_point"]), gain, axis)

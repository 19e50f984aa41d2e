"""Running a float graph with all its values kept, and again from one changed value on.

Left out: stopping where a change dies out (a ReLU that clips both values): it rarely does for all
elements of a tensor.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from burnish.errors import Unsupported
from burnish.graph import Traced, operator, operator_names
from burnish.quantize._calibration.batches import channels_last, fast_copy
from burnish.quantize._graphs.entry import refuse_quantized
from burnish.quantize._sensitivity.alone import Group, compute

Call = tuple[torch.Tensor, ...]


class Reruns:
    """A float graph and, for each group, what has to run again when its value changes."""

    def __init__(self, folded: Traced, groups: Sequence[Group]) -> None:
        self.traced = folded
        self.module = folded.graph_module
        self.nodes = list(self.module.graph.nodes)
        self.outputs = next(list(n.args[0]) for n in self.nodes if n.op == "output")
        self._plans = {group.name: self._plan(group) for group in groups}

    def floats(
        self, tensors: Call, extra: Mapping[fx.Node, torch.Tensor] | None = None
    ) -> dict[fx.Node, Any]:
        """The value of every node. `extra` is added to the values of its nodes."""
        given = iter(tensors)
        values: dict[fx.Node, Any] = {}
        for node in self.nodes:
            if node.op == "placeholder":
                values[node] = channels_last(next(given))
            elif node.op == "get_attr":
                values[node] = self._attribute(str(node.target))
            elif node.op == "call_function":
                values[node] = compute(node, values)
            if extra is not None and node in extra:
                values[node] = values[node] + extra[node]
        return values

    def again(
        self, group: Group, floats: Mapping[fx.Node, Any], value: torch.Tensor
    ) -> list[torch.Tensor]:
        """The outputs when the value at the group's end is another."""
        changed: dict[fx.Node, Any] = {group.end: value}
        seen = ChainMap(changed, floats)  # type: ignore[arg-type]
        for node, dead in self._plans[group.name]:
            changed[node] = compute(node, seen)
            for gone in dead:
                del changed[gone]
        return [seen[node] for node in self.outputs]

    def results(self, floats: Mapping[fx.Node, Any]) -> list[torch.Tensor]:
        """The outputs among the values."""
        return [floats[node] for node in self.outputs]

    def _plan(self, group: Group) -> list[tuple[fx.Node, list[fx.Node]]]:
        """What reads the changed value, in order, each with the values nobody reads after it."""
        reached = {group.end}
        order = []
        for node in self.nodes:
            reads = node.op == "call_function" and not operator(node).startswith("sym_")
            if reads and node not in reached and any(s in reached for s in node.all_input_nodes):
                reached.add(node)
                order.append(node)
        last: dict[fx.Node, fx.Node] = {}
        for node in order:
            last |= {source: node for source in node.all_input_nodes if source in reached}
        dead: dict[fx.Node, list[fx.Node]] = {}
        for source, reader in last.items():
            if source not in self.outputs:
                dead.setdefault(reader, []).append(source)
        return [(node, dead.get(node, [])) for node in order]

    def _attribute(self, name: str) -> Any:
        path, _, leaf = name.rpartition(".")
        value = getattr(self.module.get_submodule(path), leaf)
        return value.detach() if isinstance(value, torch.Tensor) else value


def prepared(folded: Traced) -> Traced:
    """A copy in the layout that is fastest on a CPU.

    Raises:
        InvalidInput: the graph is quantized.
        Unsupported: an operator writes into its input, so that no value could be kept.
    """
    names = operator_names(folded.graph_module)
    refuse_quantized(folded, "sensitivity")
    for node, name in names.items():
        schema = getattr(node.target, "_schema", None)
        if schema is not None and schema.is_mutable:
            raise Unsupported(
                f"sensitivity: {name} writes into its input, so that the float values cannot be "
                "kept: write it out of place"
            )
    return folded.with_graph(fast_copy(folded))


def squared_error(given: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> float:
    """The summed squared difference of all float outputs, where the float model's are finite."""
    return sum(_square(a - b, b) for a, b in zip(given, wanted, strict=True) if _is_float(b))


def power(wanted: Sequence[torch.Tensor]) -> float:
    """The summed squares of all float outputs, where they are finite."""
    return sum(_square(b, b) for b in wanted if _is_float(b))


def _square(x: torch.Tensor, finite: torch.Tensor) -> float:
    return float(x.detach().double().square().masked_fill(~finite.isfinite(), 0.0).sum())


def _is_float(x: torch.Tensor) -> bool:
    return x.is_floating_point()

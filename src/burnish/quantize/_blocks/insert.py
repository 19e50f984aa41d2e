"""Putting weights of few bits into a graph: what `QuantizeWeights.rewrite` does.

Layer by layer: a weight is rounded (or taken from the choices, where a method chose it), packed,
and from then on read through `dequantize_blocks`; no float of it is kept in the graph. The graph
shares its tensors with the user's model until then, so that what is held is that model, what is
packed and one layer. Nothing is written into a shared tensor, and what is still shared in the end
(biases, normalisations, layers left in float) is copied, so that neither model changes with the
other.

The matrix of `x @ matrix` is stored turned, [out, in] like a linear layer's, since blocks lie along
what is summed over. A weight is stored once however many operators read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from burnish.core import Choices
from burnish.graph import (
    DEQUANTIZE_BLOCKS,
    Traced,
    add_tensor,
    finish,
    operator,
    tensor_of,
)
from burnish.quantize._blocks.place import as_rows, weights_of
from burnish.quantize._blocks.round import BlockSpec, round_nearest, stored_parts
from burnish.quantize._graphs.entry import planned
from burnish.quantize._rescaling.scale import scale_made, scale_read

aten = torch.ops.aten
NAME_KEY = "burnish"


def insert_blocks(folded: Traced, choices: Choices) -> Traced:
    """Store the weights of a plan, in place. InvalidInput for a plan of another model.

    Args:
        folded: may share its tensors with the user's model; the result does not.
        choices: of `QuantizeWeights.choose`.
    """
    module, plan = folded.graph_module, choices.plan
    nodes = planned(module, [*plan["operators"], *_scaled(plan)])
    theirs = {id(t) for t in (*module.parameters(), *module.buffers())}
    for name, node in nodes.items():
        node.meta.setdefault(NAME_KEY, name)
    inserter = _Inserter(module, choices, nodes)
    for name in _scaled(plan):
        if name not in plan["operators"]:
            inserter.scale(nodes[name], name)
    for name, kind in plan["operators"].items():
        inserter.scale(nodes[name], name)
        inserter.store(nodes[name], name, kind)
    finish(module)
    _own(module, theirs)
    # Integers take no gradients: what comes out is a result, not a step of training.
    folded.requires_grad_(False)
    return folded


class _Inserter:
    """Stores weights, each once."""

    def __init__(
        self, module: fx.GraphModule, choices: Choices, nodes: Mapping[str, fx.Node]
    ) -> None:
        plan = choices.plan
        self.module = module
        self.graph = module.graph
        self.tensors = choices.tensors
        self.spec = BlockSpec(plan["bits"], plan["block_size"], plan["symmetric"])
        # Where each weight lives, while all of them live: later an address may be another's.
        self.places: dict[str, Any] = {
            f"{name}{label}": _place(as_rows(weight, nodes[name]))
            for name, kind in plan["operators"].items()
            for label, source in weights_of(module, nodes[name], kind)
            if (weight := tensor_of(module, source)) is not None
        }
        self.stored: dict[Any, tuple[str, ...]] = {}

    def scale(self, node: fx.Node, name: str) -> None:
        """Multiply the channels a layer makes and those it reads, as AWQ found them."""
        for kind, multiply in (("made", scale_made), ("read", scale_read)):
            if f"{kind}:{name}" in self.tensors:
                before = _sources(node)
                multiply(self.module, node, self.tensors[f"{kind}:{name}"])
                self._release(before - _sources(node))
                # It shares its weight with nobody any more.
                self.places[name] = name

    def store(self, node: fx.Node, name: str, kind: str) -> None:
        """Let an operator read its weights through `dequantize_blocks`."""
        turned = operator(node) == "matmul"
        for label, source in list(weights_of(self.module, node, kind)):
            if source not in node.all_input_nodes:
                continue  # the one before was the same
            weight = tensor_of(self.module, source)
            assert weight is not None, name
            rows = as_rows(weight, node)
            sizes = list(rows.shape if turned else weight.shape)
            with self.graph.inserting_before(node):
                stored = self._stored(f"{name}{label}", rows)
                args = (*stored, self.spec.bits, self.spec.block_size, sizes)
                read = self.graph.call_function(DEQUANTIZE_BLOCKS, args)
            read.meta = {"nn_module_stack": node.meta.get("nn_module_stack")}
            if "val" in source.meta:
                read.meta["val"] = source.meta["val"].t() if turned else source.meta["val"]
            node.replace_input_with(source, self._turned(node, read) if turned else read)
            self._release({source})

    def _turned(self, node: fx.Node, read: fx.Node) -> fx.Node:
        """The [in, out] matrix of `x @ matrix` from its rows."""
        with self.graph.inserting_before(node):
            back = self.graph.call_function(aten.t.default, (read,))
        back.meta = dict(read.meta)
        if "val" in read.meta:
            back.meta["val"] = read.meta["val"].t()
        return back

    def _stored(self, name: str, rows: torch.Tensor) -> list[fx.Node | None]:
        """Nodes that read codes, scales and zero points (None where there are none)."""
        key = self.places[name]
        if key in self.stored:
            found = [self.graph.get_attr(target) for target in self.stored[key]]
        else:
            parts = self._parts(name, rows)
            found = [add_tensor(self.module, f"{name}_{part}", parts[part]) for part in parts]
            self.stored[key] = tuple(str(new.target) for new in found)
        return [*found, *[None] * (3 - len(found))]

    def _parts(self, name: str, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """What a method chose for a weight, or the weight rounded to nearest."""
        if f"packed:{name}" in self.tensors:
            chosen = ("packed", "scale") if self.spec.symmetric else ("packed", "scale", "zero")
            return {part: self.tensors[f"{part}:{name}"] for part in chosen}
        return stored_parts(round_nearest(rows, self.spec), self.spec)

    def _release(self, sources: set[fx.Node]) -> None:
        """Drop tensors that nobody reads any more, now and not when all is done."""
        for source in sources:
            if source.users:
                continue
            target = str(source.target)
            self.graph.erase_node(source)
            if not any(n.op == "get_attr" and n.target == target for n in self.graph.nodes):
                owner, _, leaf = target.rpartition(".")
                delattr(self.module.get_submodule(owner), leaf)


def _place(rows: torch.Tensor) -> tuple[Any, ...]:
    return (rows.data_ptr(), tuple(rows.shape), rows.stride())


def _sources(node: fx.Node) -> set[fx.Node]:
    return {source for source in node.all_input_nodes if source.op == "get_attr"}


def _scaled(plan: Mapping[str, Any]) -> list[str]:
    """The layers whose channels are multiplied, each once."""
    groups = plan.get("groups", [])
    return list(dict.fromkeys(name for g in groups for name in (g["producer"], *g["readers"])))


def _own(module: fx.GraphModule, theirs: set[int]) -> None:
    """Put copies in the place of tensors that are still another model's."""
    copies: dict[int, torch.Tensor] = {}
    for owner in module.modules():
        holders: tuple[dict[str, Any], ...] = (owner._parameters, owner._buffers)
        for held in holders:
            for name, tensor in held.items():
                if tensor is None or id(tensor) not in theirs:
                    continue
                if id(tensor) not in copies:
                    copy = tensor.detach().clone()
                    as_parameter = isinstance(tensor, nn.Parameter)
                    copies[id(tensor)] = nn.Parameter(copy, False) if as_parameter else copy
                held[name] = copies[id(tensor)]

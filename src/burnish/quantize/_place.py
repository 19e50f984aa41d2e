"""Where quantizers stand in a graph, for one runtime.

Four passes over the exported graph. (1) Operators with weights and an int8 kernel are *int8*,
unless excluded. (2) Arithmetic, pooling and concatenation follow: they are int8 where all they read
comes out of int8 operators and something int8 reads what they give; alone they would cost more
conversions than they save. (3) Each int8 operator demands its inputs quantized; a demand climbs
through operators that only move data, so that one quantizer serves all readers and the runtime can
fuse; concatenation ties its inputs to one scale. (4) Where the runtime's kernels need it, outputs
are quantized too, behind the activation the kernel swallows.

Every operator ends with a state (int8, fused, passes through, float) and a reason.

Left out: choosing placement by measured time. `auto` does that, by reverting what is slower.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx

from burnish.errors import InvalidInput
from burnish.graph import operator, operator_names, tensor_of
from burnish.quantize._policy import (
    ARITHMETIC,
    CONVOLUTIONS,
    MOVES,
    POOLS,
    PRODUCTS,
    REASONS,
    TRANSPOSED,
    WEIGHTED,
    Policy,
)

INT8, FUSED, PASSES, FLOAT = "int8", "fused", "passes through", "float"


@dataclass(frozen=True)
class Coverage:
    """One row of the coverage table."""

    operator: str
    kind: str
    state: str
    reason: str


@dataclass(frozen=True)
class Placement:
    """Which values are quantized, which share a scale, and what became of every operator.

    `quantizers` maps a value (by its operator's name) to the readers that see it quantized, None
    for all. `groups` maps a value to the first value of the group whose scale it shares.
    """

    quantizers: dict[str, tuple[str, ...] | None]
    groups: dict[str, str]
    coverage: tuple[Coverage, ...]

    def int8(self) -> tuple[str, ...]:
        """The operators that run in int8."""
        return tuple(row.operator for row in self.coverage if row.state == INT8)


def place(module: fx.GraphModule, policy: Policy, exclude: Sequence[str] = ()) -> Placement:
    """Place quantizers in a graph whose batch-norms are folded.

    Args:
        module: the graph; not changed.
        policy: what the runtime wants.
        exclude: operators to keep in float: names of the coverage table, module paths (with all
            below them), or patterns with * and ?.

    Raises:
        InvalidInput: an entry of `exclude` that matches nothing.
    """
    return _Placer(module, policy, exclude).place()


def excluded_names(names: Sequence[str], exclude: Sequence[str]) -> set[str]:
    """The operators that the patterns name. InvalidInput for a pattern that matches none."""
    found: set[str] = set()
    for pattern in exclude:
        matches = {
            name
            for name in names
            if name == pattern
            or name.startswith((f"{pattern}:", f"{pattern}."))
            or fnmatch.fnmatchcase(name, pattern)
        }
        if not matches:
            close = ", ".join(list(names)[:6])
            raise InvalidInput(f"exclude={pattern!r} matches no operator; the first are: {close}")
        found |= matches
    return found


class _Placer:
    def __init__(self, module: fx.GraphModule, policy: Policy, exclude: Sequence[str]) -> None:
        self.module = module
        self.policy = policy
        self.names = operator_names(module)
        self.nodes = [node for node in module.graph.nodes if node in self.names]
        computed = [self.names[node] for node in self.nodes if node.op == "call_function"]
        self.excluded = excluded_names(computed, exclude)
        self.state: dict[fx.Node, tuple[str, str]] = {}
        self.demands: dict[fx.Node, set[fx.Node]] = {}
        self.parent: dict[fx.Node, fx.Node] = {}
        self.lifted: dict[fx.Node, set[fx.Node]] = {}

    def place(self) -> Placement:
        for node in self.nodes:
            if node.op == "call_function":
                self.state[node] = self._weighted(node)
        self._follow()
        self._demand()
        if self.policy.outputs:
            self._quantize_outputs()
        return self._result()

    # --- (1) operators with weights

    def _weighted(self, node: fx.Node) -> tuple[str, str]:
        kind = operator(node)
        if not _is_float(node):
            return FLOAT, "does not compute with floats"
        if self.names[node] in self.excluded:
            return FLOAT, "excluded"
        if kind in REASONS:
            return FLOAT, REASONS[kind]
        if kind in WEIGHTED | PRODUCTS and kind not in self.policy.int8:
            return FLOAT, f"{self.policy.runtime} has no int8 kernel for {kind}"
        if kind in WEIGHTED:
            weight = tensor_of(self.module, node.args[1])
            if weight is None:
                return FLOAT, "its weight is computed, not stored"
            if float(weight.abs().max()) == 0.0:
                return FLOAT, "its weights are all zero"
            return INT8, ""
        if kind in PRODUCTS:
            return INT8, ""
        return FLOAT, f"no int8 form of {kind}"

    # --- (2) operators that follow

    def _follow(self) -> None:
        from_int8: set[fx.Node] = set()
        followers = set()
        for node in self.nodes:
            kind = operator(node) if node.op == "call_function" else ""
            sources = self._sources(node)
            inside = bool(sources) and all(source in from_int8 for source in sources)
            if self.state.get(node, (FLOAT,))[0] == INT8:
                from_int8.add(node)
            elif self.names[node] in self.excluded:
                continue
            elif inside and kind in MOVES:
                from_int8.add(node)
            elif inside and kind in self.policy.fused and self._swallowed(node):
                from_int8.add(node)
                self.state[node] = (FUSED, f"inside {self.names[sources[0]]}")
            elif inside and self._can_follow(node, kind):
                from_int8.add(node)
                followers.add(node)
        wanted: set[fx.Node] = set()
        for node in reversed(self.nodes):
            for user in node.users:
                state = self.state.get(user, (FLOAT,))[0]
                passes = user in wanted and (user in followers or user in from_int8)
                if state == INT8 or passes:
                    wanted.add(node)
        for node in followers:
            if node in wanted:
                self.state[node] = (INT8, "")
            else:
                self.state[node] = (FLOAT, "nothing int8 reads its result")
        # A follower that fell back leaves what it fed without an int8 source; once more settles it.
        fallen = {node for node in followers if node not in wanted}
        for node in self.nodes:
            if node in followers - fallen and any(s in fallen for s in self._sources(node)):
                fallen.add(node)
                self.state[node] = (FLOAT, "what it reads stays float")

    def _can_follow(self, node: fx.Node, kind: str) -> bool:
        if kind not in self.policy.int8 & (ARITHMETIC | POOLS | {"cat"}):
            return False
        if kind in ARITHMETIC:
            operands = [a for a in node.args[:2] if isinstance(a, fx.Node)]
            return len(operands) == 2 and all(tensor_of(self.module, a) is None for a in operands)
        return not (kind == "mean" and not _is_spatial_mean(node))

    def _swallowed(self, node: fx.Node) -> bool:
        before = node.args[0]
        return isinstance(before, fx.Node) and len(_readers(before)) == 1

    def _sources(self, node: fx.Node) -> list[fx.Node]:
        return [
            source for source in node.all_input_nodes if source in self.names and _is_float(source)
        ]

    # --- (3) demands

    def _demand(self) -> None:
        for node in reversed(self.nodes):
            state = self.state.get(node, (FLOAT,))[0]
            kind = operator(node) if node.op == "call_function" else ""
            if state == INT8 and kind == "cat":
                self._tie_concatenation(node)
            elif state == INT8:
                for source in self._activations(node, kind):
                    self._require(source, node)
            elif kind in MOVES and self.names[node] not in self.excluded:
                self._pass_through(node)

    def _activations(self, node: fx.Node, kind: str) -> list[fx.Node]:
        if kind in WEIGHTED | POOLS:
            return self._sources(node)[:1]
        sources = self._sources(node)
        if kind in ARITHMETIC and self.policy.fused_add and kind.startswith("add"):
            for source in sources:
                if self._hands_over(source):
                    return [other for other in sources if other is not source]
        return sources

    def _hands_over(self, node: fx.Node) -> bool:
        int8 = self.state.get(node, (FLOAT,))[0] == INT8
        return int8 and operator(node) in CONVOLUTIONS | TRANSPOSED and len(_readers(node)) == 1

    def _require(self, source: fx.Node, reader: fx.Node) -> None:
        self.demands.setdefault(source, set()).add(reader)

    def _tie_concatenation(self, node: fx.Node) -> None:
        for source in self._sources(node):
            self._require(source, node)
            self._tie(source, node)

    def _pass_through(self, node: fx.Node) -> None:
        readers = _readers(node)
        source = self._sources(node)[:1]
        is_pad = operator(node) in ("pad", "constant_pad_nd")
        blocked = not source or not readers or (is_pad and not _pads_with_zero(node))
        if not blocked and all(reader in self.demands.get(node, ()) for reader in readers):
            self.state[node] = (PASSES, "only moves data; its input is quantized")
            self._require(source[0], node)
            self._tie(source[0], node)
            several = isinstance(node.meta.get("val"), list | tuple)
            if several or not self.policy.restated or self._merges_into(node, readers):
                self.lifted[node] = self.demands.pop(node)
        elif isinstance(node.meta.get("val"), list | tuple):
            self._lower(node)

    def _lower(self, node: fx.Node) -> None:
        """A value that is a list cannot be quantized: its parts that asked for it are, instead."""
        for part in self.demands.pop(node, set()):
            self.demands[part] = self.lifted.pop(part, self.demands.get(part, set()))
            self.state[part] = (FLOAT, "its other parts are read in float")

    def _merges_into(self, node: fx.Node, readers: list[fx.Node]) -> bool:
        """Padding before a convolution becomes the convolution's own: no quantizer between."""
        is_pad = operator(node) in ("pad", "constant_pad_nd")
        return is_pad and all(operator(r) in CONVOLUTIONS for r in readers)

    # --- (4) outputs

    def _quantize_outputs(self) -> None:
        for node in self.nodes:
            if self.state.get(node, (FLOAT,))[0] != INT8:
                continue
            end = node
            while len(_readers(end)) == 1 and self._is_fused(_readers(end)[0]):
                end = _readers(end)[0]
            hands_out_floats = operator(node) in PRODUCTS | {"linear"}
            if not hands_out_floats:
                for reader in _readers(end):
                    self._require(end, reader)
                if operator(node) == "cat":
                    self._tie(node, end)

    def _is_fused(self, node: fx.Node) -> bool:
        return self.state.get(node, (FLOAT,))[0] == FUSED

    # --- shared scales

    def _find(self, node: fx.Node) -> fx.Node:
        while self.parent.get(node, node) is not node:
            node = self.parent[node]
        return node

    def _tie(self, a: fx.Node, b: fx.Node) -> None:
        first, second = self._find(a), self._find(b)
        if first is not second:
            self.parent[second] = first

    def _result(self) -> Placement:
        quantizers: dict[str, tuple[str, ...] | None] = {}
        groups: dict[str, str] = {}
        order = {node: index for index, node in enumerate(self.nodes)}
        first: dict[fx.Node, fx.Node] = {}
        for node in sorted(self.demands, key=lambda n: order[n]):
            name = self.names[node]
            produced = self.state.get(node, (FLOAT,))[0] in (INT8, FUSED, PASSES)
            readers = sorted(self.names[r] for r in self.demands[node] if r in self.names)
            quantizers[name] = None if produced else tuple(readers)
            root = first.setdefault(self._find(node), node)
            groups[name] = self.names[root]
        coverage = tuple(
            Coverage(self.names[node], operator(node), *self.state[node])
            for node in self.nodes
            if node.op == "call_function" and _is_float(node)
        )
        return Placement(quantizers, groups, coverage)


def _readers(node: fx.Node) -> list[fx.Node]:
    """What reads a value, size queries left out."""
    return [user for user in node.users if not operator(user).startswith("sym_")]


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    if isinstance(value, list | tuple):
        return any(isinstance(v, torch.Tensor) and v.is_floating_point() for v in value)
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _is_spatial_mean(node: fx.Node) -> bool:
    """A mean over trailing axes of a batch of images: what runtimes know as average pooling."""
    value = node.args[0]
    assert isinstance(value, fx.Node)
    rank = value.meta["val"].dim()
    axes = node.args[1] if len(node.args) > 1 else None
    if not isinstance(axes, list | tuple) or rank < 3:
        return False
    return sorted(int(a) % rank for a in axes if isinstance(a, int)) == list(range(2, rank))


def _pads_with_zero(node: fx.Node) -> bool:
    if operator(node) == "constant_pad_nd":
        return len(node.args) < 3 or node.args[2] == 0
    mode = node.args[2] if len(node.args) > 2 else "constant"
    value = node.args[3] if len(node.args) > 3 else None
    return mode == "constant" and not value

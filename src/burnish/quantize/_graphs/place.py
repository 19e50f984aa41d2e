"""Where quantizers stand in a graph, for one runtime.

Four passes over the exported graph. (1) Operators with weights and an int8 kernel are *int8*,
unless excluded. (2) Arithmetic, pooling and concatenation follow: they are int8 where all they read
comes out of int8 operators and something int8 reads what they give; alone they would cost more
conversions than they save. (3) Each int8 operator demands its inputs quantized; a demand climbs
through operators that only move data, so that one quantizer serves all readers and the runtime can
fuse; concatenation ties its inputs to one scale. (4) Where the runtime's kernels need it, outputs
are quantized too, behind the activation the kernel swallows.

Every operator ends with a state (int8, fused, passes through, float); float ones have a reason.

Left out: choosing placement by measured time. `auto` does that, by reverting what is slower.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from burnish.errors import InvalidInput
from burnish.graph import matching, operator, operator_names, tensor_of
from burnish.quantize._graphs.coverage import FLOAT, FUSED, INT8, PASSES, Coverage, Placement
from burnish.quantize._graphs.node import (
    groups_of,
    is_float,
    is_list,
    is_padding,
    is_spatial_mean,
    pads_with_zero,
    readers,
    rectifies,
    stored_matrix,
)
from burnish.quantize._graphs.patterns import Gelu, float_by_default, gelus
from burnish.quantize._graphs.policy import (
    ARITHMETIC,
    CONVOLUTIONS,
    LOOKUPS,
    MOVES,
    POOLS,
    PRODUCTS,
    REASONS,
    TRANSPOSED,
    WEIGHTED,
    Policy,
)
from burnish.quantize._graphs.reasons import why_float

_UNDECIDED = (FLOAT, "")


def place(
    module: fx.GraphModule,
    policy: Policy,
    exclude: Sequence[str] = (),
    include: Sequence[str] = (),
) -> Placement:
    """Place quantizers in a graph whose batch-norms are folded.

    Args:
        module: the graph; not changed.
        policy: what the runtime wants.
        exclude: operators to keep in float: names of the coverage table, module paths (with all
            below them), or patterns with * and ?.
        include: operators that are float by default to quantize all the same (softmax times
            values, residual additions of a transformer); named alike.

    Raises:
        InvalidInput: an entry that matches nothing; one of `include` that names no operator the
            runtime could compute in int8; an operator that both name.
    """
    placer = _Placer(module, policy, exclude, include)
    placement = placer.place()
    states = {row.operator: row for row in placement.coverage}
    for pattern, names in placer.included.items():
        if all(states[name].state == FLOAT for name in names):
            first = states[names[0]]
            raise InvalidInput(
                f"include={pattern!r}: {policy.runtime} cannot compute {first.operator} in int8 "
                f"({first.reason}); leave it out of include"
            )
    return placement


def quantizable(module: fx.GraphModule, policy: Policy) -> set[str]:
    """The values that some placement may quantize, whatever is included."""
    names = operator_names(module)
    included = [names[node] for node in float_by_default(module, False)]
    everything = _Placer(module, policy, (), included).place()
    return {*place(module, policy).quantizers, *everything.quantizers}


class _Placer:
    def __init__(
        self,
        module: fx.GraphModule,
        policy: Policy,
        exclude: Sequence[str],
        include: Sequence[str],
    ) -> None:
        self.module = module
        self.policy = policy
        self.names = operator_names(module)
        self.nodes = [node for node in module.graph.nodes if node in self.names]
        self.computed = [n for n in self.nodes if n.op == "call_function" and is_float(n)]
        computed = [self.names[node] for node in self.computed]
        self.excluded = set().union(*matching(computed, exclude, "exclude").values())
        self.included = matching(computed, include, "include")
        self.reserved = self._reserved()
        self.gelus = {member: gelu for gelu in gelus(module) for member in gelu.members}
        self.bound = self._bound() if policy.outputs else set()
        self.state: dict[fx.Node, tuple[str, str]] = {}
        self.from_int8: set[fx.Node] = set()
        self.demands: dict[fx.Node, set[fx.Node]] = {}
        self.parent: dict[fx.Node, fx.Node] = {}
        self.lifted: dict[fx.Node, set[fx.Node]] = {}

    def place(self) -> Placement:
        for node in self.computed:
            self.state[node] = self._weighted(node)
        self._follow()
        self._demand()
        if self.policy.outputs:
            self._quantize_outputs()
        for node in self.computed:
            if self.state[node] == _UNDECIDED:
                self.state[node] = (FLOAT, self._why(node))
        return self._result()

    def _why(self, node: fx.Node) -> str:
        sources = self._sources(node)
        inside = bool(sources) and all(source in self.from_int8 for source in sources)
        constant = operator(node) in ARITHMETIC and self._reads_constant(node)
        return why_float(node, sources, inside, constant, self.policy)

    def _is(self, node: fx.Node, *states: str) -> bool:
        return self.state.get(node, _UNDECIDED)[0] in states

    def _bound(self) -> set[fx.Node]:
        """What an excluded rectifier was fused with: its kernel needs the quantizer behind."""
        found: set[fx.Node] = set()
        for node in reversed(self.computed):
            excluded = self.names[node] in self.excluded or node in found
            if excluded and operator(node) in self.policy.fused and rectifies(node):
                found |= {source for source in self._sources(node) if len(readers(source)) == 1}
        return found

    def _reserved(self) -> dict[fx.Node, str]:
        """What is float by default and not included, with its reason."""
        included = set().union(*self.included.values())
        both = sorted(included & self.excluded)
        if both:
            raise InvalidInput(f"{both[0]} is named by both exclude and include")
        found = float_by_default(self.module, self.policy.scores)
        return {node: why for node, why in found.items() if self.names[node] not in included}

    # --- (1) operators with weights

    def _weighted(self, node: fx.Node) -> tuple[str, str]:
        kind = operator(node)
        value = node.meta["val"]
        if self.names[node] in self.excluded:
            return FLOAT, "excluded"
        if node in self.bound:
            return FLOAT, "excluded with its activation"
        if isinstance(value, torch.Tensor) and value.dtype != torch.float32:
            return FLOAT, f"computes in {str(value.dtype).removeprefix('torch.')}"
        if kind in REASONS:
            return FLOAT, REASONS[kind]
        if node in self.reserved and kind in self.policy.int8:
            return FLOAT, self.reserved[node]
        if kind not in WEIGHTED | PRODUCTS:
            return _UNDECIDED
        if kind not in self.policy.int8:
            return FLOAT, f"{self.policy.runtime} has no int8 kernel for {kind}"
        return self._stored(node) if kind in WEIGHTED else self._product(node)

    def _stored(self, node: fx.Node) -> tuple[str, str]:
        weight = tensor_of(self.module, node.args[1])
        bias = node.args[2] if len(node.args) > 2 else None
        if weight is None:
            return FLOAT, "its weight is computed, not stored"
        if bias is not None and tensor_of(self.module, bias) is None:
            return FLOAT, "its bias is computed, not stored"
        if weight.dim() < 2:
            return FLOAT, "its weight is a vector"
        if float(weight.detach().abs().max()) == 0.0:
            return FLOAT, "its weights are all zero"
        if operator(node) in TRANSPOSED and groups_of(node) > 1:
            return FLOAT, f"{self.policy.runtime} has no int8 kernel for grouped {operator(node)}"
        return INT8, ""

    def _product(self, node: fx.Node) -> tuple[str, str]:
        matrix = stored_matrix(self.module, node)
        if matrix is not None:
            zero = float(matrix.detach().abs().max()) == 0.0
            return (FLOAT, "its weights are all zero") if zero else (INT8, "")
        if any(source.op == "get_attr" for source in node.all_input_nodes):
            return FLOAT, "a product with a stored tensor other than x @ matrix"
        return INT8, ""

    # --- (2) operators that follow

    def _follow(self) -> None:
        followers = set()
        for node in self.computed:
            kind, sources = operator(node), self._sources(node)
            inside = bool(sources) and all(source in self.from_int8 for source in sources)
            if self._is(node, INT8):
                self.from_int8.add(node)
            elif self.state[node] == _UNDECIDED and node in self.gelus:
                self._gelu(node, self.gelus[node])
            elif self.state[node] != _UNDECIDED or not inside:
                continue
            elif kind in MOVES:
                self.from_int8.add(node)
            elif self._is_swallowed(node, sources[0]):
                self.from_int8.add(node)
                self.state[node] = (FUSED, f"inside {self.names[sources[0]]}")
            elif self._can_follow(node, kind):
                self.from_int8.add(node)
                followers.add(node)
                self.state[node] = (INT8, "")
        self._fall_back(followers)

    def _gelu(self, node: fx.Node, gelu: Gelu) -> None:
        """An operator of a GELU written by hand: no quantizer may stand inside."""
        source = gelu.source
        whole = all(reader in gelu.members for reader in readers(source))
        swallows = "gelu" in self.policy.fused and not self.policy.outputs
        if swallows and whole and self._is(source, INT8, FUSED):
            self.state[node] = (FUSED, f"a GELU inside {self.names[source]}")
            if node is gelu.members[-1]:
                self.from_int8.add(node)
        else:
            self.state[node] = (FLOAT, f"part of a GELU, which {self.policy.runtime} fuses itself")

    def _fall_back(self, followers: set[fx.Node]) -> None:
        """Followers whose result nothing int8 reads are float, with what was fused into them."""
        wanted: set[fx.Node] = set()
        for node in reversed(self.nodes):
            for user in node.users:
                leads_on = user in self.from_int8 and user in wanted
                if leads_on or (self._is(user, INT8) and user not in followers):
                    wanted.add(node)
        for node in self.computed:
            sources = self._sources(node)
            if node in followers and node not in wanted:
                self.state[node] = (FLOAT, "nothing int8 reads its result")
            elif self._is(node, FUSED) and not self._is(sources[0], INT8, FUSED):
                self.state[node] = (FLOAT, "follows an operator in float")

    def _is_swallowed(self, node: fx.Node, source: fx.Node) -> bool:
        """Whether the kernel of the int8 operator `source` takes in the activation `node`."""
        if operator(node) not in self.policy.fused or len(readers(source)) != 1:
            return False
        return self._is(source, INT8, FUSED) and (rectifies(node) or not self.policy.outputs)

    def _can_follow(self, node: fx.Node, kind: str) -> bool:
        if kind not in self.policy.int8 & (ARITHMETIC | POOLS | LOOKUPS | {"cat"}):
            return False
        if kind in ARITHMETIC:
            return not self._reads_constant(node)
        return not (kind == "mean" and not is_spatial_mean(node))

    def _reads_constant(self, node: fx.Node) -> bool:
        operands = [a for a in node.args[:2] if isinstance(a, fx.Node)]
        return len(operands) < 2 or any(tensor_of(self.module, a) is not None for a in operands)

    def _sources(self, node: fx.Node) -> list[fx.Node]:
        return [
            source for source in node.all_input_nodes if source in self.names and is_float(source)
        ]

    # --- (3) demands

    def _demand(self) -> None:
        for node in reversed(self.nodes):
            kind = operator(node) if node.op == "call_function" else ""
            if self._is(node, INT8) and kind == "cat":
                self._concatenate(node)
            elif self._is(node, INT8):
                for source in self._activations(node, kind):
                    self._require(source, node)
            elif kind in MOVES and self.state.get(node) == _UNDECIDED and self._may_pass(node):
                self._pass_through(node)
            elif is_list(node):
                self._lower(node)

    def _activations(self, node: fx.Node, kind: str) -> list[fx.Node]:
        sources = self._sources(node)
        if kind in WEIGHTED | POOLS | LOOKUPS:
            return sources[:1]
        if kind in ARITHMETIC and self.policy.fused_add and kind.startswith("add"):
            for source in sources:
                if self._hands_over(source):
                    return [other for other in sources if other is not source]
        return sources

    def _hands_over(self, node: fx.Node) -> bool:
        weighted = operator(node) in CONVOLUTIONS | TRANSPOSED
        return weighted and self._is(node, INT8) and len(readers(node)) == 1

    def _require(self, source: fx.Node, reader: fx.Node) -> None:
        self.demands.setdefault(source, set()).add(reader)

    def _concatenate(self, node: fx.Node) -> None:
        for source in self._sources(node):
            self._require(source, node)
            if self.policy.tied:
                self._tie(source, node)
        if self.policy.tied:
            # What comes out lies on the one grid of what went in.
            self.demands.pop(node, None)

    def _may_pass(self, node: fx.Node) -> bool:
        found = readers(node)
        blocked = not found or not self._sources(node)
        blocked = blocked or (is_padding(node) and not pads_with_zero(node))
        return not blocked and all(reader in self.demands.get(node, ()) for reader in found)

    def _pass_through(self, node: fx.Node) -> None:
        source = self._sources(node)[0]
        self.state[node] = (PASSES, "only moves data; its input is quantized")
        self._require(source, node)
        self._tie(source, node)
        if is_list(node) or not self.policy.restated or self._merges_away(node):
            self.lifted[node] = self.demands.pop(node)

    def _merges_away(self, node: fx.Node) -> bool:
        """Padding before a convolution becomes the convolution's own: no quantizer between."""
        return is_padding(node) and all(operator(r) in CONVOLUTIONS for r in readers(node))

    def _lower(self, node: fx.Node) -> None:
        """A value that is a list cannot be quantized: its parts that asked for it are, instead."""
        for part in self.demands.pop(node, set()):
            self.demands[part] = self.lifted.pop(part, self.demands.get(part, set()))
            self.state[part] = (FLOAT, "takes a part of what is float")

    # --- (4) outputs

    def _quantize_outputs(self) -> None:
        for node in self.computed:
            if not self._is(node, INT8):
                continue
            end = node
            while len(readers(end)) == 1 and self._is(readers(end)[0], FUSED):
                end = readers(end)[0]
            # A product gives floats as readily as integers, but a ReLU behind it would be fused
            # with it in float.
            if operator(node) in PRODUCTS | {"linear"} and end is node:
                continue
            for reader in readers(end):
                self._require(end, reader)

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
            asking = sorted(self.names[r] for r in self.demands[node] if r in self.names)
            # Where the runtime needs the quantizer to choose the kernel, every reader sees it.
            quantizers[name] = None if self._is(node, INT8, FUSED, PASSES) else tuple(asking)
            root = first.setdefault(self._find(node), node)
            groups[name] = self.names[root]
        coverage = tuple(
            Coverage(self.names[node], operator(node), *self.state[node]) for node in self.computed
        )
        return Placement(quantizers, groups, coverage)

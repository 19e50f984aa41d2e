"""Labelling a graph for a cast: which values are small, which float32, and why.

Every float32 value of the graph (an input, an operator's result, a stored tensor) gets a label. A
rule or a loss of range may demand one; `fewest_conversions` finds the rest. A stored tensor of
`LARGE` elements or more that any operator could read small is stored small, even where it has to
be converted back when read: it is the file that halves. Tied tensors are one value and stay tied.

The plan: {"call", "dtype", "num_samples", "operators": those that give small values, "stored":
tensors stored small, each named by its first reader and place, "coverage": rows, "conversions"}.

Left out: operators inside the branches of a `torch.cond`; they stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

import torch
from torch import fx

from burnish.core import Choices
from burnish.errors import InvalidInput, NoEffect, Unsupported
from burnish.graph import Traced, matching, operator, operator_names, tensor_of
from burnish.quantize._cast.cut import Value, fewest_conversions, num_conversions
from burnish.quantize._cast.policy import AVERAGES, FLOAT32, FREE, MOST_TERMS, RECURRENT, SMALL
from burnish.quantize._cast.range import (
    format_name,
    lost_constant,
    lost_tensor,
    lost_value,
    lost_weight,
    magnitude,
)
from burnish.quantize._graphs.coverage import Coverage
from burnish.quantize._graphs.entry import refuse_quantized
from burnish.quantize._graphs.node import is_float, is_list, weight_axis
from burnish.quantize._graphs.policy import WEIGHTED

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
LARGE = 1024
_NOT_READING = ("sym_size", "sym_numel", "sym_stride", "_assert_tensor_metadata")
_Demand = tuple[bool | None, str]


def check_castable(folded: Traced) -> None:
    """InvalidInput for a graph that is quantized or cast, Unsupported for writes others see."""
    refuse_quantized(folded, "Cast")
    names = operator_names(folded.graph_module)
    for node in folded.graph_module.graph.nodes:
        name = names.get(node, str(node.target))
        held = _dtypes(node) & set(DTYPES.values())
        if held:
            raise InvalidInput(
                f"the model holds {format_name(held.pop())} already ({name}): give it in float32"
            )
        if node.op == "call_function" and _writes_floats(node):
            raise Unsupported(
                f"Cast: {name} writes into a tensor that other operators see, which a conversion "
                "would copy: write it out of place (x = x + y, not x[0] += y)"
            )


def _dtypes(node: fx.Node) -> set[torch.dtype]:
    value = node.meta.get("val")
    parts = value if isinstance(value, list | tuple) else [value]
    return {part.dtype for part in parts if isinstance(part, torch.Tensor)}


def _writes_floats(node: fx.Node) -> bool:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or not target._schema.is_mutable:
        return False
    return any(
        is_float(value)
        for value, argument in zip(node.args, target._schema.arguments, strict=False)
        if isinstance(value, fx.Node) and argument.alias_info and argument.alias_info.is_write
    )


def decide_cast(
    folded: Traced, reach: Mapping[str, float], num_samples: int, dtype: str, keep: Sequence[str]
) -> Choices:
    """Label a graph from how far its values reach. See `Cast.choose_from`."""
    labelled = _Labelled(folded.graph_module, reach, DTYPES[dtype], keep)
    small = labelled.small()
    operators = [labelled.names[node] for node in labelled.computed if small[node]]
    stored = [
        constant_name(labelled.names, nodes)
        for nodes in labelled.constants
        if small.get(nodes[0], False)
    ]
    rows = labelled.coverage(small)
    if not operators and not stored:
        lines = "\n".join(f"  {row.operator}: {row.reason}" for row in rows[:8])
        raise NoEffect(f"nothing can be stored or computed in {dtype}:\n{lines}")
    plan = {
        "call": dict(folded.call),
        "dtype": dtype,
        "num_samples": num_samples,
        "operators": operators,
        "stored": stored,
        "conversions": labelled.num_conversions(small),
        "coverage": [asdict(row) for row in rows],
    }
    return Choices(plan, {})


class _Labelled:
    """A graph, what is demanded of its values, and the labels."""

    def __init__(
        self,
        module: fx.GraphModule,
        reach: Mapping[str, float],
        dtype: torch.dtype,
        keep: Sequence[str],
    ) -> None:
        self.module = module
        self.reach = reach
        self.dtype = dtype
        self.names = operator_names(module)
        self.computed = [n for n in module.graph.nodes if n.op == "call_function" and is_float(n)]
        found = matching([self.names[node] for node in self.computed], keep, "keep")
        self.kept = {name for names in found.values() for name in names}
        self.constants = constants(module)
        self.demands: dict[fx.Node, _Demand] = {}
        for node in module.graph.nodes:
            if node.op != "get_attr":
                self.demands[node] = self._demand(node)
        for nodes in self.constants:
            self.demands[nodes[0]] = self._demand_of_constant(nodes)

    # --- labels

    def small(self) -> dict[fx.Node, bool]:
        """The label of every value, with the fewest conversions."""
        index, values, equal = self._values()
        label = fewest_conversions(values, equal)
        return {node: label[place] for node, place in index.items()}

    def num_conversions(self, small: Mapping[fx.Node, bool]) -> int:
        """How many conversions the labels need."""
        index, values, _ = self._values()
        labels = [False] * len(values)
        for node, place in index.items():
            labels[place] = small[node]
        return num_conversions(values, labels)

    def _values(self) -> tuple[dict[fx.Node, int], list[Value], list[tuple[int, int]]]:
        index: dict[fx.Node, int] = {}
        for place, nodes in enumerate(self.constants):
            index |= dict.fromkeys(nodes, place)
        first = len(self.constants)
        others = [node for node in self.module.graph.nodes if node.op != "get_attr"]
        index |= {node: first + place for place, node in enumerate(others)}
        read: dict[int, set[int]] = {place: set() for place in index.values()}
        equal = []
        for node, place in index.items():
            if not holds_float32(self.module, node):
                continue
            for reader in float_readers(node):
                if is_list(node):
                    equal.append((place, index[reader]))
                else:
                    read[place].add(index[reader])
        demanded = {index[node]: demand for node, (demand, _) in self.demands.items()}
        values = [Value(tuple(sorted(read[i])), demanded.get(i)) for i in range(len(read))]
        return index, values, equal

    # --- demands

    def _demand(self, node: fx.Node) -> _Demand:
        if node.op != "call_function" or not is_float(node):
            return False, "reads floats and gives none"
        if _dtypes(node) - {torch.float32} or torch.float32 in (*node.args, *node.kwargs.values()):
            return False, FLOAT32["to"]
        name, kind = self.names[node], operator(node)
        if name in self.kept:
            return False, "kept in float32, as asked"
        if kind in FLOAT32:
            return False, FLOAT32[kind]
        lost = self._lost(node, name)
        if lost is not None:
            return False, lost
        if kind in AVERAGES:
            terms = _terms(node)
            return (None, "") if terms <= MOST_TERMS else (False, f"adds up {terms:.0f} terms")
        if kind in SMALL:
            return True, ""
        if kind in FREE:
            return None, ""
        return False, f"no rule says that {kind} is safe in {format_name(self.dtype)}"

    def _lost(self, node: fx.Node, name: str) -> str | None:
        """Why the small type has no room for what the operator reads, holds or gives."""
        own = lost_value(self.reach.get(name, 0.0), self.dtype)
        if own is not None:
            return f"its values {own}"
        for source in node.all_input_nodes:
            lost = lost_value(self.reach.get(self.names.get(source, ""), 0.0), self.dtype)
            if lost is not None and is_float(source):
                return f"what it reads ({self.names[source]}): values {lost}"
        for number in _numbers(node):
            lost = lost_constant(number, self.dtype)
            if lost is not None:
                return lost
        return self._lost_stored(node, name)

    def _lost_stored(self, node: fx.Node, name: str) -> str | None:
        for place, source in enumerate(node.all_input_nodes):
            tensor = tensor_of(self.module, source)
            if tensor is None or tensor.dtype != torch.float32:
                continue
            if operator(node) in WEIGHTED and place == 2:
                error = magnitude(tensor - tensor.to(self.dtype).float())
                if error > torch.finfo(self.dtype).eps * self.reach.get(name, math.inf):
                    return f"its bias is not kept by {format_name(self.dtype)}"
                continue
            if operator(node) in WEIGHTED:
                source = node.all_input_nodes[0]
                reaches = self.reach.get(self.names.get(source, ""), math.inf), self.reach[name]
                lost = lost_weight(tensor, weight_axis(node), reaches, self.dtype)
            else:
                lost = lost_tensor(tensor, self.dtype)
            if lost is not None:
                return f"its weights {lost}"
        return None

    def _demand_of_constant(self, nodes: Sequence[fx.Node]) -> _Demand:
        readers = [reader for node in nodes for reader in float_readers(node)]
        tensor = tensor_of(self.module, nodes[0])
        assert tensor is not None
        wide = [r for r in readers if self.demands[r][0] is False and not self._recurs(r)]
        recurs = any(self._recurs(reader) for reader in readers)
        if not readers or wide or (recurs and lost_tensor(tensor, self.dtype) is not None):
            return False, ""
        return (True, "") if tensor.numel() >= LARGE or recurs else (None, "")

    def _recurs(self, node: fx.Node) -> bool:
        """A recurrent operator: computes in float32 with weights stored small."""
        return operator(node) in RECURRENT and self.names[node] not in self.kept

    # --- the table

    def coverage(self, small: Mapping[fx.Node, bool]) -> tuple[Coverage, ...]:
        """A row for every operator that gives floats."""
        held, rows = format_name(self.dtype), []
        for node in self.computed:
            state = held if small[node] else "float32"
            reason = self.demands[node][1]
            if not small[node] and not reason:
                reason = "between float32 values: in the small type it would need a conversion"
            if self._recurs(node) and any(
                small.get(source, False) for source in node.all_input_nodes if _stored(source)
            ):
                reason += f"; its weights are stored in {held}"
            rows.append(Coverage(self.names[node], operator(node), state, reason))
        return tuple(rows)


def constants(module: fx.GraphModule) -> list[list[fx.Node]]:
    """The nodes that read each stored float32 tensor; tied tensors are one."""
    found: dict[int, list[fx.Node]] = {}
    for node in module.graph.nodes:
        tensor = tensor_of(module, node)
        if tensor is not None and tensor.dtype == torch.float32:
            found.setdefault(id(tensor), []).append(node)
    return list(found.values())


def constant_name(names: Mapping[fx.Node, str], nodes: Sequence[fx.Node]) -> str:
    """What a plan calls a stored tensor: its first reader and the place it is read at."""
    for node in nodes:
        for reader in node.users:
            if reader in names:
                return f"{names[reader]}[{reader.all_input_nodes.index(node)}]"
    return "output"


def float_readers(node: fx.Node) -> list[fx.Node]:
    """What reads the elements of a value."""
    return [user for user in node.users if operator(user) not in _NOT_READING]


def holds_float32(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a value is float32 in the graph that was traced."""
    tensor = tensor_of(module, node)
    return tensor.dtype == torch.float32 if tensor is not None else torch.float32 in _dtypes(node)


def _stored(node: fx.Node) -> bool:
    return node.op == "get_attr"


def _numbers(node: fx.Node) -> Iterator[float]:
    """The numbers an operator computes with: not its sizes and axes."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return
    for place, argument in enumerate(target._schema.arguments):
        kind = str(argument.type)
        value = node.args[place] if place < len(node.args) else node.kwargs.get(argument.name)
        # A number in a tensor's place is one that is computed with, as in x + 1e-5.
        wanted = any(word in kind for word in ("number", "float", "Tensor"))
        if wanted and isinstance(value, int | float) and not isinstance(value, bool):
            yield float(value)


def _terms(node: fx.Node) -> float:
    """How many elements an average or a sum adds up for one of its own; infinite where it varies.

    Adaptive pools may overlap, by a factor that does not matter here.
    """
    source = node.args[0]
    assert isinstance(source, fx.Node)
    if operator(node).startswith("avg_pool"):
        size = node.args[1]
        sizes = size if isinstance(size, list | tuple) else [size]
        rank = int(operator(node)[-2])
        return float(math.prod(sizes) ** (rank if len(sizes) == 1 else 1))
    before, after = source.meta["val"].shape, node.meta["val"].shape
    if operator(node).startswith("adaptive"):
        before, after = before[-int(operator(node)[-2]) :], after[-int(operator(node)[-2]) :]
    remaining = list(before)
    for size in after:
        if size in remaining:
            remaining.remove(size)
        elif isinstance(size, int) and size != 1:
            divided = next((s for s in remaining if isinstance(s, int) and s % size == 0), None)
            if divided is not None:
                remaining[remaining.index(divided)] = divided // size
    if any(not isinstance(size, int) for size in remaining):
        return math.inf
    return float(math.prod(remaining))

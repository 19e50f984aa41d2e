"""What a transformer is made of, found in an exported graph: attention and hand-written GELUs.

*Attention*: fused, it is one operator. Written out, it is a product whose result reaches a softmax
through scaling, masking and moves (the scores, q·k), and a product that reads what left the softmax
(the mix, softmax·V). Softmax gives values in [0, 1] of which most are nearly 0 and which must sum
to 1; 255 levels for all of them ruin the sum, so the mix stays in float unless asked for. What is
added to the scores is a mask, often of -inf: everything between the two products stays in float,
so that a mask never enters a range.

*Residual additions* of a transformer carry a few channels far larger than the rest through all
layers; an addition of two values that come out of linear layers, in a graph that holds attention,
stays in float unless asked for.

*GELU* by hand is x·(1 + erf(x/√2))/2, or the same with tanh of a cubic, in a dozen orders of the
factors. Both runtimes put it together again if nothing stands between. It is found by what it
computes: whatever lies between a value and a product that reads it and an erf or tanh of it is run
on a few numbers and compared with GELU.

Left out: attention written with einsum (no runtime quantizes that), gated units (no fusion to
break).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from burnish.graph import operator, tensor_of
from burnish.quantize._graphs.node import is_float, readers
from burnish.quantize._graphs.policy import MOVES, PRODUCTS

MIX = "softmax times values: stays float by default"
SCORES = "queries times keys: as fast in float"
RESIDUAL = "residual addition of a transformer: stays float by default"

_SOFTMAX = frozenset({"softmax", "_softmax", "safe_softmax", "_safe_softmax"})
_FUSED = frozenset({"scaled_dot_product_attention"})
# What stands between the two products: scaling, masking, dropout, changes of type.
_BETWEEN = MOVES | {
    *("mul", "div", "add", "sub", "where", "masked_fill", "clamp", "maximum", "minimum"),
    *("mul_", "div_", "add_", "sub_", "masked_fill_", "dropout", "to", "_to_copy", "type_as"),
    *("nan_to_num", "alias", "scalar_tensor"),
}
_ADDITIONS = frozenset({"add", "add_"})
_CURVES = frozenset({"erf", "tanh"})
_MOST_GELU = 12


@dataclass(frozen=True)
class Gelu:
    """A GELU of `source`, written out: its operators in order, the last gives the result.

    `form` is "none" for the one with erf, "tanh" for the other, as torch calls them.
    """

    source: fx.Node
    members: tuple[fx.Node, ...]
    form: str


@dataclass(frozen=True)
class Attention:
    """The products of attention that is written out, and whether there is any at all."""

    scores: frozenset[fx.Node]
    mixes: frozenset[fx.Node]
    present: bool


def attention(module: fx.GraphModule) -> Attention:
    """Find attention in both of its forms."""
    scores: set[fx.Node] = set()
    mixes: set[fx.Node] = set()
    fused = False
    for node in module.graph.nodes:
        if node.op != "call_function":
            continue
        fused = fused or operator(node) in _FUSED
        if operator(node) in _SOFTMAX:
            before, behind = _reach(node, up=True), _reach(node, up=False)
            if behind:  # a classifier's softmax is followed by no product
                scores |= before
                mixes |= behind
    return Attention(frozenset(scores - mixes), frozenset(mixes), fused or bool(mixes))


def _reach(softmax: fx.Node, up: bool) -> set[fx.Node]:
    """The products next to a softmax, before it or behind it."""
    found, seen, waiting = set(), {softmax}, [softmax]
    while waiting:
        node = waiting.pop()
        for other in node.all_input_nodes if up else node.users:
            if other in seen or other.op != "call_function" or not is_float(other):
                continue
            seen.add(other)
            if operator(other) in PRODUCTS:
                found.add(other)
            elif operator(other) in _BETWEEN:
                waiting.append(other)
    return found


def float_by_default(module: fx.GraphModule, scores: bool) -> dict[fx.Node, str]:
    """The operators with int8 kernels that a transformer wants in float, each with its reason.

    `scores` says that the runtime is faster with queries times keys in int8.
    """
    found = attention(module)
    reasons = dict.fromkeys(found.mixes, MIX)
    if not scores:
        reasons |= dict.fromkeys(found.scores, SCORES)
    if found.present:
        reasons |= {node: RESIDUAL for node in module.graph.nodes if _is_residual(module, node)}
    return reasons


def _is_residual(module: fx.GraphModule, node: fx.Node) -> bool:
    """An addition of two activations, one of them a linear layer's result."""
    if node.op != "call_function" or operator(node) not in _ADDITIONS or not is_float(node):
        return False
    operands = [a for a in node.args[:2] if isinstance(a, fx.Node)]
    if len(operands) < 2 or any(tensor_of(module, operand) is not None for operand in operands):
        return False
    return any(operator(_unmoved(operand)) == "linear" for operand in operands)


def _unmoved(node: fx.Node) -> fx.Node:
    """What a value was before its data was only moved."""
    while node.op == "call_function" and operator(node) in MOVES:
        source = node.args[0]
        if not isinstance(source, fx.Node):
            break
        node = source
    return node


def gelus(module: fx.GraphModule) -> tuple[Gelu, ...]:
    """Every GELU that is written out."""
    found = []
    for node in module.graph.nodes:
        if node.op == "call_function" and operator(node) in _CURVES and is_float(node):
            whole = _gelu(module, node)
            if whole is not None:
                found.append(whole)
    return tuple(found)


def _gelu(module: fx.GraphModule, curve: fx.Node) -> Gelu | None:
    end = curve
    for _ in range(_MOST_GELU):
        following = readers(end)
        if len(following) != 1 or not is_float(following[0]):
            return None
        end = following[0]
        tensors = [n for n in end.all_input_nodes if tensor_of(module, n) is None]
        if operator(end) != "mul" or len(tensors) < 2:
            continue
        # A constant factor may come last.
        for last in (end, *(r for r in readers(end)[:1] if len(readers(end)) == 1)):
            for source in _sources_of(module, last, curve):
                whole = _between(module, source, last)
                form = None if whole is None else _form(module, source, whole)
                if whole is not None and form is not None and curve in whole:
                    return Gelu(source, whole, form)
        return None
    return None


def _sources_of(module: fx.GraphModule, end: fx.Node, curve: fx.Node) -> list[fx.Node]:
    """What both the curve and the product's other side may be computed from, nearest first."""
    above: list[fx.Node] = []
    waiting = list(curve.all_input_nodes)
    while waiting and len(above) < _MOST_GELU:
        node = waiting.pop(0)
        if node in above or tensor_of(module, node) is not None:
            continue
        if "val" in node.meta and not is_float(node):  # our dequantizers carry no value
            continue
        above.append(node)
        waiting += node.all_input_nodes
    return above


def _between(module: fx.GraphModule, source: fx.Node, end: fx.Node) -> tuple[fx.Node, ...] | None:
    """The operators that `end` needs beyond `source`, in order; None where there is more."""
    members: set[fx.Node] = set()
    waiting = [end]
    while waiting:
        node = waiting.pop()
        if node is source or node in members or tensor_of(module, node) is not None:
            continue
        if node.op != "call_function" or len(members) >= _MOST_GELU:
            return None
        members.add(node)
        waiting += node.all_input_nodes
    inside = members - {end}
    if any(user not in members for node in inside for user in readers(node)):
        return None
    return tuple(node for node in module.graph.nodes if node in members)


def _form(module: fx.GraphModule, source: fx.Node, members: tuple[fx.Node, ...]) -> str | None:
    """Which GELU the operators compute; None where they compute something else."""
    x = torch.linspace(-6.0, 6.0, 49)
    values: dict[fx.Node, Any] = {source: x}

    def value(node: fx.Node) -> Any:
        return values[node] if node in values else tensor_of(module, node)

    for node in members:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), value)
        try:
            values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        except (RuntimeError, TypeError, IndexError):
            return None  # an operator that is not elementwise: no GELU
    result = values[members[-1]]
    if not isinstance(result, torch.Tensor) or result.shape != x.shape:
        return None
    for form in ("none", "tanh"):
        if torch.allclose(result, F.gelu(x, approximate=form), atol=1e-5):
            return form
    return None


def merge_gelus(module: fx.GraphModule) -> None:
    """Make every GELU that is written out one operator, in place; the caller finishes the graph.

    Behind a convolution that was quantized its readers would each get a dequantizer of their own
    from onnxruntime, which then finds no GELU to fuse.
    """
    for gelu in gelus(module):
        end = gelu.members[-1]
        with module.graph.inserting_before(end):
            single = module.graph.call_function(
                torch.ops.aten.gelu.default, (gelu.source,), {"approximate": gelu.form}
            )
        single.meta = dict(end.meta)
        end.replace_all_uses_with(single)

"""Operators that store a weight, and choosing among them by name.

What stores its weights in integers (dynamic quantization, weights in blocks) goes through a graph
in the same way: each operator that computes on floats is of a kind, or of none with a reason; it is
taken unless something speaks against it; what was asked for by name must match; and every operator
has a row in the coverage table. What speaks against one, and what a runtime makes of one that is
taken, is each step's own.

Left out: placing quantizers on activations, which `place` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from burnish.errors import InvalidInput, NoEffect
from burnish.graph import matching, operator, operator_names, tensor_of
from burnish.quantize._graphs.coverage import FLOAT, Coverage
from burnish.quantize._graphs.node import is_float, stored_matrix

OPERATORS = {
    "linear": ("linear", "matmul"),
    "conv": ("conv1d", "conv2d", "conv3d"),
    "lstm": ("lstm",),
    "gru": ("gru",),
    "embedding": ("embedding",),
}
RECURRENT = ("lstm", "gru")
TWO_ACTIVATIONS = "a product of two activations: no stored weight"
# Why operators of no kind are left, whatever their weights would become.
OTHERS = {
    "scaled_dot_product_attention": "attention of activations: no stored weight",
    "bmm": TWO_ACTIVATIONS,
    "addmm": "written as torch.addmm: only linear layers and x @ matrix are taken",
}
_KIND_OF = {name: kind for kind, names in OPERATORS.items() for name in names}


@dataclass(frozen=True)
class Chosen:
    """The operators to quantize, each with its kind, and a row for every float operator."""

    operators: dict[str, str]
    coverage: tuple[Coverage, ...]


def kind_of(node: fx.Node) -> str:
    """The kind of an operator that stores its weights; "" for any other."""
    return _KIND_OF.get(operator(node), "") if node.op == "call_function" else ""


def choose_stored(
    module: fx.GraphModule,
    include: Sequence[str],
    exclude: Sequence[str],
    why_not: Callable[[fx.Node, str], str],
    becomes: Callable[[fx.Node, str], tuple[str, str]],
    words: tuple[str, str],
) -> Chosen:
    """Choose operators of a graph.

    Args:
        module: float, or quantized in parts.
        include: only these, by name or pattern; empty for all.
        exclude: not these.
        why_not: (node, its kind or "") to what speaks against it; "" for nothing.
        becomes: (node, kind) of one that is taken to its state in the coverage and a note.
        words: how to end "PATTERN …" for one that matches nothing with a form, and how to begin the
            list of reasons where nothing is left.

    Raises:
        InvalidInput: a pattern that matches no operator, or none that could be quantized.
        NoEffect: there is nothing to quantize.
    """
    names = operator_names(module)
    computed = {n: name for n, name in names.items() if n.op == "call_function" and is_float(n)}
    listed = list(computed.values())
    asked = matching(listed, include, "include")
    wanted = {name for found in asked.values() for name in found} if include else set(listed)
    left = {name for found in matching(listed, exclude, "exclude").values() for name in found}
    operators, rows = {}, []
    for node, name in computed.items():
        kind = kind_of(node)
        reason = why_not(node, kind)
        if not reason and name not in wanted:
            reason = "not among the layers asked for"
        if not reason and name in left:
            reason = "excluded"
        state, note = (FLOAT, reason) if reason else becomes(node, kind)
        if not reason:
            operators[name] = kind
        rows.append(Coverage(name, operator(node), state, note))
    for pattern, found in asked.items():
        if not any(_KIND_OF.get(row.kind) for row in rows if row.operator in found):
            raise InvalidInput(f"{pattern!r} {words[0]}")
    if not operators:
        raise NoEffect(_nothing(rows, words[1]))
    return Chosen(operators, tuple(rows))


def why_no_weight(module: fx.GraphModule, node: fx.Node) -> str:
    """What is wrong with the weight of an operator that is not recurrent; "" for nothing."""
    weight = stored_weight(module, node)
    if weight is None:
        product = operator(node) == "matmul"
        return TWO_ACTIVATIONS if product else "its weight is computed, not stored"
    if weight.dtype != torch.float32:
        return f"computes in {str(weight.dtype).removeprefix('torch.')}"
    if weight.dim() < 2:
        return "its weight is a vector"
    if not all(bool(torch.isfinite(rows).all()) for rows in torch.split(weight, 1024)):
        return "its weights hold infinities or NaN"
    return ""


def stored_weight(module: fx.GraphModule, node: fx.Node) -> torch.Tensor | None:
    """The weight of a linear, `x @ matrix`, convolution or embedding, [out or rows, ...]."""
    if operator(node) == "matmul":
        matrix = stored_matrix(module, node)
        return None if matrix is None else matrix.t()
    return tensor_of(module, node.args[0] if operator(node) == "embedding" else node.args[1])


def _nothing(rows: Sequence[Coverage], head: str) -> str:
    reasons: dict[str, list[str]] = {}
    for row in rows:
        reasons.setdefault(row.reason, []).append(row.operator)
    lines = [f"  {reason}: {', '.join(names[:4])}" for reason, names in reasons.items()]
    return "\n".join([f"{head}:", *lines])

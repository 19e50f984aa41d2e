"""Which operators are quantized dynamically, and why the others are not.

An operator is taken where it holds float32 weights of a kind that was asked for and the runtime has
a form for it. What computes in float all the same, with its weights stored in int8, is *float* in
the coverage table, and its reason says where the bytes went.

Left out: leaving small layers alone because their conversions cost more than they save; what pays
is a matter of measuring.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx

from burnish.errors import InvalidInput, NoEffect, Unsupported
from burnish.graph import operator, operator_names, tensor_of
from burnish.quantize._coverage import FLOAT, INT8, Coverage
from burnish.quantize._matching import matching
from burnish.quantize._node import is_float, rank_of, stored_matrix
from burnish.quantize._recurrent import refusal

OPERATORS = {
    "linear": ("linear", "matmul"),
    "conv": ("conv1d", "conv2d", "conv3d"),
    "lstm": ("lstm",),
    "gru": ("gru",),
    "embedding": ("embedding",),
}
KINDS = tuple(OPERATORS)
# ConvInteger (onnxruntime 1.31) took 4 to 16 times as long as the float convolution.
DEFAULT_KINDS = ("linear", "lstm", "gru", "embedding")
NO_FORM = "holds nothing that has a dynamic form: Linear, Conv, LSTM, GRU and Embedding layers have"
_KIND_OF = {name: kind for kind, names in OPERATORS.items() for name in names}
_STORED = {
    "gru": "weights stored in int8, computed in float: no runtime here has an integer GRU kernel",
    "embedding": "table stored in int8; the rows that are read are made floats",
}
# OpenVINO 2026.4 turns the integer products of ONNX into float ones.
_RUNS = {"onnxruntime": frozenset(KINDS), "openvino": frozenset(_STORED)}
RUNTIMES = tuple(_RUNS)
_NOT_ASKED = {
    "conv": "onnxruntime's integer convolution is slower than its float one: only where "
    "kinds holds 'conv'"
}
_REASONS = {
    "scaled_dot_product_attention": "attention of activations: no stored weight",
    "bmm": "a product of two activations: no stored weight",
    "addmm": "written as torch.addmm: only linear layers and x @ matrix are taken",
    "lstm_cell": "a single cell: only whole layers are taken",
    "gru_cell": "a single cell: only whole layers are taken",
    "embedding_bag": "sums the rows it reads: no form in int8",
    "rnn_tanh": "no dynamic form of a plain RNN",
    "rnn_relu": "no dynamic form of a plain RNN",
}


@dataclass(frozen=True)
class Chosen:
    """The operators to quantize, each with its kind, and a row for every float operator."""

    operators: dict[str, str]
    coverage: tuple[Coverage, ...]


def choose_operators(
    module: fx.GraphModule,
    runtime: str,
    kinds: Sequence[str],
    include: Sequence[str],
    exclude: Sequence[str],
) -> Chosen:
    """Choose in a float graph.

    Raises:
        InvalidInput: a pattern that matches no operator, or none that could be quantized.
        Unsupported: the runtime has no kernel for an operator that was asked for.
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
        kind = _KIND_OF.get(operator(node), "")
        reason = _why_not(module, node, kind)
        if not reason and kind not in kinds:
            reason = _NOT_ASKED.get(kind, f"{kind} is not among the kinds asked for")
        if not reason and name not in wanted:
            reason = "not among the layers asked for"
        if not reason and name in left:
            reason = "excluded"
        if not reason:
            operators[name] = kind
        state = FLOAT if reason or kind in _STORED else INT8
        rows.append(Coverage(name, operator(node), state, reason or _STORED.get(kind, "")))
    for pattern, found in asked.items():
        if not any(_KIND_OF.get(row.kind) for row in rows if row.operator in found):
            raise InvalidInput(f"{pattern!r} {NO_FORM}")
    if not operators:
        raise NoEffect(_nothing(rows))
    _refuse_unsupported(runtime, operators)
    return Chosen(operators, tuple(rows))


def _refuse_unsupported(runtime: str, operators: dict[str, str]) -> None:
    for name, kind in operators.items():
        if kind not in _RUNS[runtime]:
            raise Unsupported(
                f"{runtime} has no kernel that quantizes activations as they come: {name!r} would "
                f"be computed in float, slower than before. Use QuantizeStatic(runtime={runtime!r})"
                " with calibration data, or runtime='onnxruntime' here; "
                f"kinds={tuple(sorted(_RUNS[runtime]))} alone store their weights in int8"
            )


def _why_not(module: fx.GraphModule, node: fx.Node, kind: str) -> str:
    if not kind:
        return _reason(operator(node))
    if kind in ("lstm", "gru"):
        return refusal(module, node)
    weight = stored_weight(module, node)
    if weight is None:
        return (
            "a product of two activations: no stored weight"
            if operator(node) == "matmul"
            else "its weight is computed, not stored"
        )
    if weight.dtype != torch.float32:
        return f"computes in {str(weight.dtype).removeprefix('torch.')}"
    if not bool(torch.isfinite(weight).all()):
        return "its weights hold infinities or NaN"
    if weight.dim() < 2:
        return "its weight is a vector"
    if kind == "conv" and rank_of(node) != weight.dim():
        return "called without a batch axis"
    bias = node.args[2] if kind in ("linear", "conv") and len(node.args) > 2 else None
    if bias is not None and tensor_of(module, bias) is None:
        return "its bias is computed, not stored"
    return ""


def _reason(name: str) -> str:
    if name.startswith("conv_transpose"):
        return "onnxruntime has no integer kernel for transposed convolutions"
    return _REASONS.get(name, "holds no weights that could be int8")


def has_dynamic_form(node: fx.Node) -> bool:
    """Whether the operator is of a kind that is quantized dynamically."""
    return node.op == "call_function" and operator(node) in _KIND_OF


def stored_weight(module: fx.GraphModule, node: fx.Node) -> torch.Tensor | None:
    """The weight of a linear, `x @ matrix`, convolution or embedding, [out or rows, ...]."""
    if operator(node) == "matmul":
        matrix = stored_matrix(module, node)
        return None if matrix is None else matrix.t()
    return tensor_of(module, node.args[0] if operator(node) == "embedding" else node.args[1])


def _nothing(rows: Sequence[Coverage]) -> str:
    reasons: dict[str, list[str]] = {}
    for row in rows:
        reasons.setdefault(row.reason, []).append(row.operator)
    lines = [f"  {reason}: {', '.join(names[:4])}" for reason, names in reasons.items()]
    return "\n".join(["no operator could be quantized dynamically:", *lines])

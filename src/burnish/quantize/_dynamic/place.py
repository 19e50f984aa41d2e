"""Which operators are quantized dynamically, and why the others are not.

An operator is taken where it holds float32 weights of a kind that was asked for and the runtime has
a form for it. What computes in float all the same, with its weights stored in int8, is *float* in
the coverage table, and its reason says where the bytes went.

Left out: leaving small layers alone because their conversions cost more than they save; what pays
is a matter of measuring.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from burnish.errors import Unsupported
from burnish.graph import operator, tensor_of
from burnish.quantize._graphs.coverage import FLOAT, INT8
from burnish.quantize._graphs.node import rank_of
from burnish.quantize._graphs.recurrent import refusal
from burnish.quantize._graphs.stored import (
    OPERATORS,
    OTHERS,
    RECURRENT,
    Chosen,
    choose_stored,
    stored_weight,
    why_no_weight,
)

KINDS = tuple(OPERATORS)
# ConvInteger (onnxruntime 1.31) took 4 to 16 times as long as the float convolution.
DEFAULT_KINDS = ("linear", "lstm", "gru", "embedding")
_NOTHING = "no operator could be quantized dynamically"
NO_FORM = "holds nothing that has a dynamic form: Linear, Conv, LSTM, GRU and Embedding layers have"
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
    **OTHERS,
    "lstm_cell": "a single cell: only whole layers are taken",
    "gru_cell": "a single cell: only whole layers are taken",
    "embedding_bag": "sums the rows it reads: no form in int8",
    "rnn_tanh": "no dynamic form of a plain RNN",
    "rnn_relu": "no dynamic form of a plain RNN",
}


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

    def why_not(node: fx.Node, kind: str) -> str:
        reason = _why_not(module, node, kind)
        if not reason and kind not in kinds:
            return _NOT_ASKED.get(kind, f"{kind} is not among the kinds asked for")
        return reason

    chosen = choose_stored(module, include, exclude, why_not, _becomes, (NO_FORM, _NOTHING))
    _refuse_unsupported(runtime, chosen.operators)
    return chosen


def _becomes(_: fx.Node, kind: str) -> tuple[str, str]:
    return (FLOAT, _STORED[kind]) if kind in _STORED else (INT8, "")


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
    if kind in RECURRENT:
        return refusal(module, node)
    reason = why_no_weight(module, node)
    if reason:
        return reason
    weight = stored_weight(module, node)
    assert weight is not None
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

"""Which weights are stored in blocks of few bits, and what a runtime does with them.

Linear layers, `x @ matrix` and embedding tables stay compressed in memory: both runtimes have
kernels that read the codes (onnxruntime 1.31: MatMulNBits, GatherBlockQuantized; OpenVINO 2026.4: a
compressed FullyConnected, a compressed Gather). Nobody has such a kernel for convolutions and
recurrent layers: their weights are stored in few bits, which makes the file small, and become
floats when the file is loaded. The coverage table tells the two apart.

What is quantized already (`QuantizeStatic` leaves float layers beside int8 ones) is left as it is.

Left out: transposed convolutions, whose rows are inputs; torch.addmm; leaving a layer alone because
it is small.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from burnish.errors import InvalidInput, NoEffect
from burnish.graph import DEQUANTIZE, operator, operator_names, tensor_of
from burnish.quantize._coverage import FLOAT, Coverage
from burnish.quantize._dynamic_place import OPERATORS, stored_weight
from burnish.quantize._matching import matching
from burnish.quantize._node import is_float
from burnish.quantize._recurrent import refusal

RUNTIMES = ("onnxruntime", "openvino")
RECURRENT = ("lstm", "gru")
_KIND_OF = {name: kind for kind, names in OPERATORS.items() for name in names}
_NO_FORM = "holds no weight that is stored in blocks: Linear, Embedding, Conv, LSTM and GRU do"
_UNPACKED = "stored in {bits} bits, floats once loaded: {runtime} computes no {kind} from codes"
_REASONS = {
    "scaled_dot_product_attention": "attention of activations: no stored weight",
    "bmm": "a product of two activations: no stored weight",
    "addmm": "written as torch.addmm: only linear layers and x @ matrix are taken",
    "embedding_bag": "sums the rows it reads: no form with compressed weights",
}


@dataclass(frozen=True)
class Placed:
    """The operators whose weights are stored, each with its kind, and a row for every one."""

    operators: dict[str, str]
    coverage: tuple[Coverage, ...]


def place(
    module: fx.GraphModule,
    runtime: str,
    bits: int,
    include: Sequence[str],
    exclude: Sequence[str],
) -> Placed:
    """Choose in a graph that is float, or quantized in parts.

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
        kind = _KIND_OF.get(operator(node), "")
        reason = _why_not(module, node, kind)
        if not reason and name not in wanted:
            reason = "not among the layers asked for"
        if not reason and name in left:
            reason = "excluded"
        if not reason:
            operators[name] = kind
        state = FLOAT if reason else f"int{bits} weights"
        note = reason or _why_unpacked(module, node, kind, runtime, bits)
        rows.append(Coverage(name, operator(node), state, note))
    for pattern, found in asked.items():
        if not any(_KIND_OF.get(row.kind) for row in rows if row.operator in found):
            raise InvalidInput(f"{pattern!r} {_NO_FORM}")
    if not operators:
        raise NoEffect(_nothing(rows))
    return Placed(operators, tuple(rows))


def weights_of(module: fx.GraphModule, node: fx.Node, kind: str) -> Iterator[tuple[str, fx.Node]]:
    """(label, node that reads it) for each weight of an operator; a recurrent layer has several.

    The label is "" for the only weight, "[3]" for the fourth parameter of a recurrent layer.
    """
    if kind not in RECURRENT:
        source = node.args[0 if kind == "embedding" else 1]
        assert isinstance(source, fx.Node)
        yield "", source
        return
    params = node.args[2]
    assert isinstance(params, list | tuple)
    for index, param in enumerate(params):
        tensor = tensor_of(module, param)
        if isinstance(param, fx.Node) and tensor is not None and tensor.dim() > 1:
            yield f"[{index}]", param


def as_rows(tensor: torch.Tensor, node: fx.Node) -> torch.Tensor:
    """A weight of `node` as a matrix, its rows as blocks lie along them; `x @ matrix` turned."""
    weight = tensor.detach()
    return weight.t() if operator(node) == "matmul" else weight.flatten(1)


def _why_not(module: fx.GraphModule, node: fx.Node, kind: str) -> str:
    if not kind:
        return _reason(operator(node))
    if kind in RECURRENT:
        return refusal(module, node)
    source = node.args[0 if kind == "embedding" else 1]
    if isinstance(source, fx.Node) and source.target is DEQUANTIZE:
        return "quantized already"
    weight = stored_weight(module, node)
    if weight is None:
        return (
            "a product of two activations: no stored weight"
            if operator(node) == "matmul"
            else "its weight is computed, not stored"
        )
    if weight.dtype != torch.float32:
        return f"computes in {str(weight.dtype).removeprefix('torch.')}"
    if weight.dim() < 2:
        return "its weight is a vector"
    if not all(bool(torch.isfinite(rows).all()) for rows in torch.split(weight, 1024)):
        return "its weights hold infinities or NaN"
    return ""


def _why_unpacked(module: fx.GraphModule, node: fx.Node, kind: str, runtime: str, bits: int) -> str:
    """Why the runtime holds floats all the same; "" where the weight stays compressed."""
    what = {"conv": "convolution", "lstm": "LSTM", "gru": "GRU"}.get(kind, "")
    if kind == "linear" and runtime == "openvino":
        weight = stored_weight(module, node)
        what = "product with one output" if weight is not None and len(weight) == 1 else ""
    if not what:
        return ""
    return _UNPACKED.format(bits=bits, runtime=runtime, kind=what)


def _reason(name: str) -> str:
    if name.startswith("conv_transpose"):
        return "a transposed convolution: its rows are inputs, not outputs"
    return _REASONS.get(name, "holds no weights that could be stored in fewer bits")


def _nothing(rows: Sequence[Coverage]) -> str:
    reasons: dict[str, list[str]] = {}
    for row in rows:
        reasons.setdefault(row.reason, []).append(row.operator)
    lines = [f"  {reason}: {', '.join(names[:4])}" for reason, names in reasons.items()]
    return "\n".join(["no weight could be stored in fewer bits:", *lines])

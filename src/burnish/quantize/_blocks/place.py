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

import torch
from torch import fx

from burnish.graph import DEQUANTIZE, operator, tensor_of
from burnish.quantize._graphs.recurrent import refusal
from burnish.quantize._graphs.stored import (
    OTHERS,
    RECURRENT,
    Chosen,
    choose_stored,
    stored_weight,
    why_no_weight,
)

RUNTIMES = ("onnxruntime", "openvino")
_NOTHING = "no weight could be stored in fewer bits"
_NO_FORM = "holds no weight that is stored in blocks: Linear, Embedding, Conv, LSTM and GRU do"
_UNPACKED = "stored in {bits} bits, floats once loaded: {runtime} computes no {kind} from codes"
_REASONS = {
    **OTHERS,
    "embedding_bag": "sums the rows it reads: no form with compressed weights",
}


def place(
    module: fx.GraphModule,
    runtime: str,
    bits: int,
    include: Sequence[str],
    exclude: Sequence[str],
) -> Chosen:
    """Choose in a graph that is float, or quantized in parts.

    Raises:
        InvalidInput: a pattern that matches no operator, or none that could be quantized.
        NoEffect: there is nothing to quantize.
    """

    def why_not(node: fx.Node, kind: str) -> str:
        return _why_not(module, node, kind)

    def becomes(node: fx.Node, kind: str) -> tuple[str, str]:
        return f"int{bits} weights", _why_unpacked(module, node, kind, runtime, bits)

    return choose_stored(module, include, exclude, why_not, becomes, (_NO_FORM, _NOTHING))


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
    return why_no_weight(module, node)


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

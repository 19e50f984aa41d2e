"""Dynamic quantization: int8 weights, and activations quantized as they come; no calibration data.

    trace → fold batch-norm → choose operators → store their weights in int8

Linear and LSTM layers, and convolutions where asked for, run on integers in onnxruntime, the range
of each activation taken from the tensor itself at run time; a GRU's weights and an embedding's
table are stored in int8 and computed in float. It costs a pass over every activation, so that it
pays where weights are large and activations small: recurrent layers, transformers at small batches,
wide linear layers.

The plan holds the names of the operators; `rewrite` rounds the model's own weights again.

Left out: ranges per row, weights in fewer bits, and float16 weights, which are a cast.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from burnish.core import Choices, Rewrite
from burnish.goal import Goal
from burnish.graph import Traced
from burnish.quantize._dynamic.insert import insert_dynamic
from burnish.quantize._dynamic.place import DEFAULT_KINDS, KINDS, RUNTIMES, choose_operators
from burnish.quantize._graphs.entry import float_graph, fold, refuse_quantized, trace_for
from burnish.quantize._graphs.setting import one_of, patterns


@dataclass(frozen=True)
class QuantizeDynamic(Rewrite):
    """Dynamic int8 quantization for one runtime. Needs no data.

    Args:
        runtime: "onnxruntime", or "openvino" for kinds that are stored in int8 only.
        kinds: which layers: of "linear", "lstm", "gru", "embedding", and "conv", which is left out
            by default because onnxruntime's integer convolution is slower than its float one.
        include: only these operators: names of the coverage table, module paths (with all below
            them), patterns. Empty for all.
        exclude: operators to leave in float.
        half_range: keep weights within -63 to 63, so that no 16-bit sum of two products saturates
            on a CPU without VNNI.

    Raises:
        InvalidInput: a runtime or kind that is not known.
    """

    runtime: str = "onnxruntime"
    kinds: tuple[str, ...] = DEFAULT_KINDS
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    half_range: bool = False

    def __post_init__(self) -> None:
        one_of("QuantizeDynamic", "runtime", self.runtime, RUNTIMES)
        for name in ("kinds", "include", "exclude"):
            object.__setattr__(self, name, patterns(name, getattr(self, name)))
        for kind in self.kinds:
            one_of("QuantizeDynamic", "kinds", kind, KINDS)

    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        """Choose operators. The goal gives the example call, nothing else."""
        return self.choose_from(fold(trace_for(model, goal)))

    def choose_from(self, folded: Traced) -> Choices:
        """Choose operators of a folded graph.

        The plan: {"call", "runtime", "half_range", "operators": {name: kind}, "coverage": rows}.

        Raises:
            InvalidInput: a pattern that matches nothing that could be quantized, or a graph that is
                quantized already.
            Unsupported: the runtime cannot run an operator that was asked for.
            NoEffect: there is nothing to quantize.
        """
        refuse_quantized(folded, "QuantizeDynamic")
        chosen = choose_operators(
            folded.graph_module, self.runtime, self.kinds, self.include, self.exclude
        )
        plan: dict[str, Any] = {
            "call": dict(folded.call),
            "runtime": self.runtime,
            "half_range": self.half_range,
            "operators": chosen.operators,
            "coverage": [asdict(row) for row in chosen.coverage],
        }
        return Choices(plan, {})

    def rewrite(self, model: nn.Module, choices: Choices) -> nn.Module:
        """The quantized graph. Pure: equal choices give equal graphs."""
        return insert_dynamic(float_graph(model, choices), choices)

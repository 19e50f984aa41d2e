"""The rows of the table: which technique, for which runtime.

A row is steps in order, each a rewrite of the graph before it; the last one quantizes or casts.
What is not there is an ImportError before anything is measured. A refinement stands beside plain
static quantization on one runtime (`REFINED_ON`), with nothing else changed; "all refinements" is
their sum on both. A row that ends in `ConvertQat` trains between its two steps (table/build.py).

Left out: combinations of two or three of them; blocks of other sizes than 32; mixed precision,
which is rows under a budget (mixed_precision.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from burnish.core import Rewrite
from burnish.quantize import (
    Cast,
    ConvertQat,
    CrossLayerEqualization,
    PrepareQat,
    QuantizeDynamic,
    QuantizeStatic,
    QuantizeWeights,
    SmoothQuant,
    Weights,
)

RUNTIMES = ("onnxruntime", "openvino")
REFINED_ON = "onnxruntime"
PLAIN = "static"
ALL = "static, all refinements"
TRAINED = "QAT"
IN_WEIGHTS = ((8, "nearest"), (4, "nearest"), (4, "hqq"), (4, "gptq"), (4, "awq"))


@dataclass(frozen=True)
class Entry:
    """One row: `steps` are applied in order to the float graph; none are a float artifact."""

    technique: str
    runtime: str
    precision: str
    steps: tuple[Rewrite, ...] = ()

    @property
    def label(self) -> str:
        """Its name in the table and in the journal."""
        return f"{self.technique}, {self.runtime}"


def entries(kind: str) -> tuple[Entry, ...]:
    """All rows for a kind of network, floats first."""
    first = (*_floats(), *_dynamic(), *_static(), *_refined(kind), *_everything())
    return (*first, *_weights(), *_trained())


def _floats() -> list[Entry]:
    floats = [Entry("float32", runtime, "float32") for runtime in RUNTIMES]
    hinted = Entry("bfloat16 execution", "openvino", "bfloat16")
    casts = [Entry("float16 cast", on, "float16", (Cast("float16"),)) for on in RUNTIMES]
    stored = Entry("bfloat16 cast", "openvino", "bfloat16-weights", (Cast("bfloat16"),))
    return [*floats, hinted, *casts, stored]


def _dynamic() -> list[Entry]:
    on = "onnxruntime"
    return [
        Entry("dynamic", on, "int8", (QuantizeDynamic(on),)),
        Entry("dynamic, SmoothQuant", on, "int8", (SmoothQuant(), QuantizeDynamic(on))),
    ]


def _static() -> list[Entry]:
    return [Entry(PLAIN, runtime, "int8", (QuantizeStatic(runtime),)) for runtime in RUNTIMES]


def _weights() -> list[Entry]:
    return [
        Entry(
            f"weights in {bits} bits, {method}",
            runtime,
            f"int{bits}-weights",
            (QuantizeWeights(runtime, bits, method=method),),
        )
        for bits, method in IN_WEIGHTS
        for runtime in RUNTIMES
    ]


def _trained() -> list[Entry]:
    return [Entry(TRAINED, on, "int8", (PrepareQat(on), ConvertQat())) for on in RUNTIMES]


def _refined(kind: str) -> list[Entry]:
    on = REFINED_ON
    single = {
        "min-max ranges": QuantizeStatic(on, ranges="min-max"),
        "moving average ranges": QuantizeStatic(on, ranges="moving average"),
        "percentile ranges": QuantizeStatic(on, ranges="percentile"),
        "entropy ranges": QuantizeStatic(on, ranges="entropy"),
        "ranges per layer": QuantizeStatic(on, ranges="per layer"),
        "no bias correction": QuantizeStatic(on, bias_correction="none"),
        "sequential bias correction": QuantizeStatic(on, bias_correction="sequential"),
        "AdaRound": QuantizeStatic(on, weights=Weights(rounding="learned")),
        "half-range first weights": QuantizeStatic(on, weights=Weights(half_range="first")),
        "half-range weights": QuantizeStatic(on, weights=Weights(half_range="all")),
    }
    if kind == "convolutional":  # nothing else has depthwise convolutions
        single["no depthwise equalization"] = QuantizeStatic(on, equalize=False)
    before: dict[str, Rewrite] = {
        "SmoothQuant": SmoothQuant(),
        "cross-layer equalization": CrossLayerEqualization(),
    }
    return [
        *(Entry(f"{PLAIN}, {name}", on, "int8", (step,)) for name, step in single.items()),
        *(
            Entry(f"{PLAIN}, {name}", on, "int8", (step, QuantizeStatic(on)))
            for name, step in before.items()
        ),
    ]


def _everything() -> list[Entry]:
    """SmoothQuant where it changes something, then ranges, biases and rounding at their best."""
    return [
        Entry(
            ALL,
            runtime,
            "int8",
            (
                SmoothQuant(),
                QuantizeStatic(
                    runtime,
                    ranges="per layer",
                    bias_correction="sequential",
                    weights=Weights(rounding="learned"),
                ),
            ),
        )
        for runtime in RUNTIMES
    ]

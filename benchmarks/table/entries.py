"""The rows of the table: which technique, for which runtime.

A row is steps in order, each a rewrite of the graph before it; the last one quantizes or casts.
What is not there is an ImportError before anything is measured. A refinement stands beside plain
static quantization on one runtime (`REFINED_ON`), with nothing else changed; "all refinements" is
their sum on both.

Left out: combinations of two or three of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from burnish.core import Rewrite
from burnish.quantize import (
    Cast,
    CrossLayerEqualization,
    QuantizeDynamic,
    QuantizeStatic,
    SmoothQuant,
    Weights,
)

RUNTIMES = ("onnxruntime", "openvino")
REFINED_ON = "onnxruntime"
PLAIN = "static"
ALL = "static, all refinements"


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
    return (*_floats(), *_dynamic(), *_static(), *_refined(kind), *_everything())


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

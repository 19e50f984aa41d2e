"""Static int8 quantization of an exported graph: decide, then rewrite.

    trace → fold batch-norm → calibrate → equalize depthwise inputs → place quantizers
          → choose ranges → correct biases → insert quantize/dequantize

Activations become uint8 per tensor, weights int8 per output channel, biases int32. What a runtime
needs decides where quantizers stand (`_graphs.policy`, `_graphs.place`), so the result is for one
runtime; the arithmetic it describes is the same everywhere, and `eager` simulates it.

The plan holds what was decided, by operator names: the scale and zero point of each value and who
reads it quantized, the operators in int8, the float operators with their reasons. Tensors hold the
corrected biases, the equalization gains and learned integers. `rewrite` needs nothing else.

Left out: per-block scales; settings for single operators.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from burnish.core import Choices, Rewrite
from burnish.goal import Goal
from burnish.graph import Traced
from burnish.quantize._calibration.calibrate import Statistics, calibrate
from burnish.quantize._graphs.entry import (
    calibration_calls,
    float_graph,
    fold,
    folded_with_calls,
    refuse_quantized,
    trace_for,
)
from burnish.quantize._graphs.policy import policy_for
from burnish.quantize._graphs.setting import patterns
from burnish.quantize._static.decide import decide
from burnish.quantize._static.insert import insert
from burnish.quantize._static.settings import (
    NEAREST_8,
    BiasCorrection,
    Ranges,
    Weights,
    check_settings,
)

Watch = Callable[[Iterable[Any], str], Iterable[Any]]


@dataclass(frozen=True)
class QuantizeStatic(Rewrite):
    """Static int8 quantization for one runtime.

    Args:
        runtime: whose int8 kernels to place quantizers for: "onnxruntime" or "openvino".
        ranges: how a value's range is chosen from what calibration saw: one of `METHODS` for all,
            or "per layer": for each value the method whose readers' outputs err least.
        bias_correction: take the mean error of rounded weights off the biases: "fast" from each
            layer's own mean input, "sequential" from the output of the network quantized so far.
        equalize: give the channels before a depthwise convolution one range.
        exclude: operators to keep in float: names of the coverage table, module paths, patterns.
        weights: bits and rounding of the weights; a dict of its settings will do.
        include: operators to quantize that are float by default, where the runtime has a kernel.

    Raises:
        InvalidInput: a setting that is not known.
    """

    runtime: str = "onnxruntime"
    ranges: Ranges = "squared error"
    bias_correction: BiasCorrection = "fast"
    equalize: bool = True
    exclude: tuple[str, ...] = ()
    weights: Weights = NEAREST_8
    include: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        policy_for(self.runtime)
        object.__setattr__(self, "exclude", patterns("exclude", self.exclude))
        object.__setattr__(self, "include", patterns("include", self.include))
        object.__setattr__(self, "weights", Weights.of(self.weights))
        check_settings(self)

    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        """Calibrate on the goal's calibration data and decide."""
        folded = fold(trace_for(model, goal))
        refuse_quantized(folded, "QuantizeStatic")
        statistics = calibrate(folded, calibration_calls(goal))
        return self.choose_from(folded, statistics, goal.seed)

    def choose_from(self, folded: Traced, statistics: Statistics, seed: int = 0) -> Choices:
        """Decide from statistics already taken.

        Args:
            folded: the float graph, its batch-norms folded.
            statistics: what `calibrate` saw of it.
            seed: of the order in which learned rounding visits its samples.

        Raises:
            NoEffect: nothing can be quantized.
            InvalidInput: a model that is quantized already, an entry of `exclude` or `include`
                that matches nothing, or too little data for learned rounding.
        """
        refuse_quantized(folded, "QuantizeStatic")
        return decide(folded, statistics, self, seed)

    def rewrite(self, model: nn.Module, choices: Choices) -> nn.Module:
        """The quantized graph. Pure: equal choices give equal graphs."""
        return insert(float_graph(model, choices), choices)


def quantize_static(
    model: nn.Module,
    calibration: Iterable[Any],
    *,
    runtime: str = "onnxruntime",
    ranges: Ranges = "squared error",
    bias_correction: BiasCorrection = "fast",
    equalize: bool = True,
    exclude: tuple[str, ...] = (),
    weights: Weights | Mapping[str, Any] = NEAREST_8,
    include: tuple[str, ...] = (),
) -> Traced:
    """Quantize a model to int8 with calibration data.

    Args:
        model: in eval mode; left as it was.
        calibration: batches: a tensor, a tuple of the model's positional arguments, a dict of its
            keyword ones, or `Inputs`. Iterated once; the first batch is the example the model is
            traced with.
        runtime: whose int8 kernels to place quantizers for.
        ranges, bias_correction, equalize, exclude, weights, include: as of `QuantizeStatic`.

    Returns:
        A module called like the original that simulates the int8 arithmetic.

    Raises:
        InvalidInput: no calibration data, or a setting that matches nothing.
        NoEffect: no operator could be quantized.
        Unsupported: the model cannot be exported.
    """
    step = QuantizeStatic(
        runtime, ranges, bias_correction, equalize, exclude, Weights.of(weights), include
    )
    folded, calls = folded_with_calls("quantize_static", model, calibration)
    choices = step.choose_from(folded, calibrate(folded, calls))
    quantized = step.rewrite(folded, choices)
    assert isinstance(quantized, Traced)
    return quantized

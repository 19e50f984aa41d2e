"""Quantization-aware training: the weights learn to live on the grid they will be deployed on.

    PrepareQat → Train or Distill → ConvertQat

`PrepareQat` decides as `QuantizeStatic` does (batch-norm folded, the same placement, the same first
ranges and biases) and puts operators with gradients where the quantizers will stand; the graph it
gives computes the same as the statically quantized one, and trains. `ConvertQat` makes integers of
what was trained, in the very form that `QuantizeStatic` gives: nothing else is ever exported. All
three are entries of a history and are replayed from the float model without data.

Scales are *learned* with the weights (LSQ; Esser et al., 2019), or *observed*: they follow the
extremes of what they see. From `frozen_from` of the training on they stand still, and the weights
settle on grids that move no more.

Batch-norm is folded before, with the statistics it has: there is none left to train or to freeze.

Left out: recurrent layers, which stay float in both steps, with that reason in the coverage table;
learning the zero point; dropout, which a graph traced in eval mode has lost (`Traced.lost`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from torch import nn

from burnish.core import Choices, Rewrite
from burnish.errors import InvalidInput, NoEffect
from burnish.goal import Goal
from burnish.graph import Traced, operator_names
from burnish.quantize._calibration.calibrate import calibrate
from burnish.quantize._graphs.coverage import FLOAT, coverage
from burnish.quantize._graphs.entry import (
    Call,
    calibration_calls,
    float_graph,
    fold,
    refuse_quantized,
    trace_for,
    traced_with_calls,
)
from burnish.quantize._graphs.place import place
from burnish.quantize._graphs.policy import policy_for
from burnish.quantize._graphs.setting import one_of
from burnish.quantize._qat.insert import frozen_layers, insert_fakes
from burnish.quantize._qat.read import bare, read
from burnish.quantize._static.grids import has_weights
from burnish.quantize._static.insert import insert
from burnish.quantize._static.settings import NEAREST_8, Ranges, Weights
from burnish.quantize._static.static import QuantizeStatic

Scales = Literal["learned", "observed"]
_RECURRENT = "recurrent: quantization-aware training keeps it in float; QuantizeStatic does not"


@dataclass(frozen=True)
class PrepareQat(Rewrite):
    """Put trainable fake quantizers where `QuantizeStatic` would put quantizers.

    Args:
        runtime: whose int8 kernels to place them for: "onnxruntime" or "openvino".
        scales: "learned" by gradient descent, or "observed" as moving averages of the extremes.
        frozen_from: the share of the training, above 0 and up to 1, from which on ranges stand
            still; 1 for never.
        ranges: how the first range of a value is chosen; as of `QuantizeStatic`.
        exclude: operators to keep in float; as there.
        weights: bits, and half-range integers for CPUs without VNNI; rounding is "nearest".
        include: operators to quantize that are float by default; as there.

    Raises:
        InvalidInput: a setting that is not known or out of range.
    """

    runtime: str = "onnxruntime"
    scales: Scales = "learned"
    frozen_from: float = 0.8
    ranges: Ranges = "squared error"
    exclude: tuple[str, ...] = ()
    weights: Weights = NEAREST_8
    include: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        static = self.static()
        object.__setattr__(self, "exclude", static.exclude)
        object.__setattr__(self, "include", static.include)
        object.__setattr__(self, "weights", static.weights)
        one_of("PrepareQat", "scales", self.scales, get_args(Scales))
        share = self.frozen_from
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise InvalidInput(
                f"PrepareQat(frozen_from={share!r}): a share of the training, above 0 and up to 1"
            )
        if static.weights.rounding != "nearest":
            raise InvalidInput(
                f"PrepareQat(weights=…) asks for {static.weights.rounding!r} rounding: training "
                'moves the weights themselves; take rounding="nearest"'
            )

    def static(self) -> QuantizeStatic:
        """The static quantization that training begins with."""
        return QuantizeStatic(
            self.runtime,
            self.ranges,
            exclude=self.exclude,
            weights=self.weights,
            include=self.include,
        )

    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        """Calibrate on the goal's calibration data and decide."""
        if goal.task.calibration is None:
            raise InvalidInput(
                "PrepareQat: the ranges that training begins with come from calibration data, and "
                "this task has none: give Task(calibration=…)"
            )
        return self.choose_from(trace_for(model, goal), calibration_calls(goal), goal.seed)

    def choose_from(self, traced: Traced, calls: Iterable[Call], seed: int = 0) -> Choices:
        """Decide for a traced model.

        Args:
            traced: in eval mode; batch-norms are folded here.
            calls: calibration data, the tensors of each call in the order of `traced.inputs`.
            seed: as of `QuantizeStatic.choose_from`.

        Raises:
            InvalidInput: a quantized, prepared or frozen model; no calibration data; an entry of
                `exclude` or `include` that matches nothing.
            NoEffect: nothing can be quantized, or LSTM layers alone.
        """
        refuse_quantized(traced, "PrepareQat")
        frozen = frozen_layers(traced)
        folded = fold(traced)
        choices = self.static().choose_from(folded, calibrate(folded, calls), seed)
        plan = _without_recurrent(choices)
        _refuse_frozen(folded, plan["operators"], frozen)
        policy = policy_for(self.runtime)
        groups = place(folded.graph_module, policy, self.exclude, self.include).groups
        sizes = Counter(groups.values())
        more = {
            "scales": self.scales,
            "frozen_from": float(self.frozen_from),
            "groups": {value: group for value, group in groups.items() if sizes[group] > 1},
            "frozen": frozen,
        }
        return Choices(plan | more, choices.tensors)

    def rewrite(self, model: nn.Module, choices: Choices) -> nn.Module:
        """The graph to train. Pure: equal choices give equal graphs."""
        return insert_fakes(float_graph(model, choices), choices)


@dataclass(frozen=True)
class ConvertQat(Rewrite):
    """Make integers of a prepared graph as it is now: the graph `QuantizeStatic` would give."""

    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        """Read scales and weights; the goal is not looked at."""
        return read(model)

    def rewrite(self, model: nn.Module, choices: Choices) -> nn.Module:
        """The quantized graph. InvalidInput for a model that is not prepared."""
        return insert(bare(model), choices)


def prepare_qat(
    model: nn.Module,
    calibration: Iterable[Any],
    *,
    runtime: str = "onnxruntime",
    scales: Scales = "learned",
    frozen_from: float = 0.8,
    ranges: Ranges = "squared error",
    exclude: tuple[str, ...] = (),
    weights: Weights | Mapping[str, Any] = NEAREST_8,
    include: tuple[str, ...] = (),
) -> Traced:
    """Prepare a model for quantization-aware training.

    Args:
        model: in eval mode; left as it was.
        calibration: batches, as of `quantize_static`. Iterated once; the first is the example the
            model is traced with.
        runtime, scales, frozen_from, ranges, exclude, weights, include: as of `PrepareQat`.

    Returns:
        A module called like the original, to be trained with `burnish.train.fit` or `distill`,
        then given to `convert_qat`. As it is, it computes what `quantize_static` gives.

    Raises:
        InvalidInput: no calibration data, a frozen model, or a setting that matches nothing.
        NoEffect: no operator could be quantized.
        Unsupported: the model cannot be exported.
    """
    step = PrepareQat(runtime, scales, frozen_from, ranges, exclude, Weights.of(weights), include)
    traced, calls = traced_with_calls("prepare_qat", model, calibration)
    prepared = step.rewrite(traced, step.choose_from(traced, calls))
    assert isinstance(prepared, Traced)
    return prepared


def convert_qat(prepared: nn.Module) -> Traced:
    """Make integers of a model that `prepare_qat` prepared and a training trained.

    Returns:
        A module called like the original that simulates the int8 arithmetic, to be exported.

    Raises:
        InvalidInput: a model that was not prepared, a range that collapsed, a weight that is not
            finite.
    """
    return insert(bare(prepared), read(prepared))


def _without_recurrent(choices: Choices) -> dict[str, Any]:
    """A static plan in which LSTM layers stay float. NoEffect where nothing else is quantized."""
    recurrent = choices.plan["recurrent"]
    if recurrent and not choices.plan["operators"]:
        raise NoEffect(
            f"nothing but {', '.join(recurrent)} could be quantized, and quantization-aware "
            "training keeps recurrent layers in float: take QuantizeStatic or QuantizeDynamic"
        )
    rows = [
        replace(row, state=FLOAT, reason=_RECURRENT) if row.operator in recurrent else row
        for row in coverage(choices)
    ]
    return {**choices.plan, "recurrent": {}, "coverage": [asdict(row) for row in rows]}


def _refuse_frozen(folded: Traced, operators: Iterable[str], frozen: Iterable[str]) -> None:
    """InvalidInput where no weight that would be quantized may learn."""
    module, asked = folded.graph_module, set(operators)
    layers = [n for node, n in operator_names(module).items() if has_weights(module, node)]
    layers = [name for name in layers if name in asked]
    if layers and set(layers) <= set(frozen):
        raise InvalidInput(
            f"PrepareQat: the model is frozen: no weight that would be quantized takes gradients "
            f"({', '.join(layers[:4])}); call model.requires_grad_(True), or take QuantizeStatic, "
            "which trains nothing"
        )

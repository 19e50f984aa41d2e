"""Mixed precision: each layer gets the precision that a limit on the whole leaves it.

    survey: layers, what each could be, what each precision loses → a cost for each
          → integer program (`allocate`) → QuantizeStatic for the int8 layers, QuantizeWeights for
            the int4 ones, the rest in float

The cost is handed in: milliseconds from a runtime's own counters (`burnish.auto.mix` measures
them), multiply-accumulates, anything that adds up over layers; without one it is bytes of stored
weights. What the layers lose is measured here, by the sensitivity. Layers whose quantization does
little harm for what it saves become cheap, the others stay precise; a row for each says why.

The plan holds the allocation and the plans of the steps it is made of, so that `rewrite` is theirs,
one after the other. bfloat16 is no rewriting: the plan says the type to execute the file in
("execution"), and a torch graph still computes those layers in float32.

Left out: refining the int8 part (ranges per layer, SmoothQuant) or the int4 part (GPTQ, HQQ, AWQ);
searching over seams' costs, which only measured wholes tell (`burnish.auto`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import InitVar, asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from burnish.core import Allocation, Choices, Option, Rewrite, allocate
from burnish.errors import InvalidInput, NoEffect
from burnish.goal import Goal
from burnish.graph import Traced, operator_names
from burnish.quantize._blocks.blocks import QuantizeWeights
from burnish.quantize._calibration.calibrate import Statistics, calibrate
from burnish.quantize._graphs.coverage import FLOAT, INT8, Coverage, coverage
from burnish.quantize._graphs.entry import (
    calibration_calls,
    float_graph,
    fold,
    folded_with_calls,
    trace_for,
)
from burnish.quantize._graphs.place import place
from burnish.quantize._graphs.policy import policy_for
from burnish.quantize._graphs.setting import one_of, patterns
from burnish.quantize._mixed.survey import (
    SPEC,
    STATES,
    Cost,
    Survey,
    check_precisions,
    survey,
)
from burnish.quantize._mixed.why import AllocationRow, explain
from burnish.quantize._static.insert import NAME_KEY, insert
from burnish.quantize._static.static import QuantizeStatic

Minimise = Literal["loss", "cost"]
Options = Mapping[str, Mapping[str, Option]]
STATIC, BLOCKS = "static", "blocks"  # the parts of a plan; tensors of each are named after it


@dataclass(frozen=True)
class MixedPrecision(Rewrite):
    """A precision for every layer, under one limit, for one runtime.

    Args:
        limit: the most that the sum of the costs may be, in the unit of `cost`; with
            minimise="cost" the most that the sum of the losses may be (a layer's loss is the
            squared error of the outputs that it causes alone, as a share of their power).
        runtime: "onnxruntime" or "openvino".
        precisions: "float32" or "bfloat16" (OpenVINO alone), with "int8", "int4" or both.
        minimise: "loss" or "cost".
        exclude: layers to keep in float: names, module paths, patterns.
        cost: `cost(layer, precision)` -> what it costs; None for the bytes of its stored weights.
            A function is no setting: a history keeps what it gave, in the plan.
        unit: of the cost, for the table.

    Raises:
        InvalidInput: settings that are not known or do not go together.
        Unsupported: a precision that the runtime cannot hold.
    """

    limit: float
    runtime: str = "onnxruntime"
    precisions: tuple[str, ...] = ("float32", INT8)
    minimise: Minimise = "loss"
    exclude: tuple[str, ...] = ()
    cost: InitVar[Cost | None] = None
    unit: str = "bytes"

    def __post_init__(self, cost: Cost | None) -> None:
        if isinstance(self.limit, bool) or not isinstance(self.limit, int | float):
            raise InvalidInput(f"MixedPrecision(limit={self.limit!r}): a number is wanted")
        if not (math.isfinite(self.limit) and self.limit >= 0):
            raise InvalidInput(f"MixedPrecision(limit={self.limit}): a finite number of 0 or more")
        object.__setattr__(self, "precisions", check_precisions(self.precisions, self.runtime))
        object.__setattr__(self, "exclude", patterns("exclude", self.exclude))
        one_of("MixedPrecision", "minimise", self.minimise, ("loss", "cost"))
        if cost is not None and not callable(cost):
            raise InvalidInput(
                f"MixedPrecision(cost={cost!r}): a function of a layer's name and a precision"
            )
        object.__setattr__(self, "cost", cost)

    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        """Calibrate on the goal's calibration data, survey and allocate."""
        folded = fold(trace_for(model, goal))
        statistics = calibrate(folded, calibration_calls(goal))
        return self.choose_from(folded, statistics, goal.seed)

    def choose_from(
        self, folded: Traced, statistics: Statistics, seed: int = 0, seen: Survey | None = None
    ) -> Choices:
        """Decide from statistics already taken, and from a survey where there is one.

        Raises:
            InvalidInput: a cost that is NaN, negative or infinite (its layer is named); otherwise
                as `survey`.
            Infeasible: no allocation keeps the limit; `result` is the nearest `Allocation`.
            NoEffect: no layer could be, or was given, another precision than float32.
        """
        seen = seen or survey(folded, statistics, self.runtime, self.precisions, self.exclude)
        cost: Cost | None = vars(self)["cost"]  # an InitVar: no field, so no setting
        options = seen.options(cost or (lambda layer, p: seen.num_bytes[layer][p]))
        found = allocate(options, self.limit, self.minimise)
        if set(found.chosen.values()) == {seen.base}:
            raise NoEffect(
                f"every layer stays in {seen.base}: that keeps the limit of {self.limit:.6g} "
                f"{self.unit if self.minimise == 'loss' else 'of loss'}, and nothing loses less"
            )
        return self.compose(folded, statistics, seen, options, found, seed)

    def compose(
        self,
        folded: Traced,
        statistics: Statistics,
        seen: Survey,
        options: Options,
        found: Allocation,
        seed: int = 0,
    ) -> Choices:
        """The choices for an allocation that was decided elsewhere.

        The plan: {"call", "runtime", "execution", "precisions": {layer: precision}, "cost", "loss",
        "allocation": a row for each layer with its reason, "static": plan of QuantizeStatic or
        None, "blocks": plan of QuantizeWeights or None, "coverage": rows}.

        Args:
            folded: the float graph that was surveyed.
            statistics: of its calibration.
            seen: the survey.
            options: what there was to choose from.
            found: a precision for each layer.
            seed: as of `QuantizeStatic.choose_from`.
        """
        parts = _parts(folded, statistics, seen, found, seed)
        rows = explain(options, found, self.unit, seen.refused)
        plan = {
            "call": dict(folded.call),
            "runtime": seen.runtime,
            "execution": seen.base,
            "precisions": dict(found.chosen),
            "cost": found.cost,
            "loss": found.loss,
            "allocation": [row.to_json() for row in rows],
            "coverage": [asdict(row) for row in _coverage(folded, seen, rows, parts)],
            **{
                name: dict(parts[name].plan) if name in parts else None for name in (STATIC, BLOCKS)
            },
        }
        tensors: dict[str, torch.Tensor] = {
            f"{part}:{name}": tensor
            for part, choices in parts.items()
            for name, tensor in choices.tensors.items()
        }
        return Choices(plan, tensors)

    def rewrite(self, model: nn.Module, choices: Choices) -> nn.Module:
        """The graph with its int8 and int4 layers. Pure: equal choices give equal graphs."""
        graph = float_graph(model, choices)
        for name in (STATIC, BLOCKS):
            if choices.plan[name] is not None:
                graph = _applied(graph, name, _part(choices, name))
        return graph


def _parts(
    folded: Traced, statistics: Statistics, seen: Survey, found: Allocation, seed: int
) -> dict[str, Choices]:
    """What the steps that an allocation is made of choose: static first, blocks beside it."""
    graph, parts = folded, dict[str, Choices]()
    chosen = {
        wanted: [name for name, precision in found.chosen.items() if precision == wanted]
        for wanted in (INT8, "int4")
    }
    if chosen[INT8]:
        able = [layer.name for layer in seen.layers if INT8 not in layer.refused]
        others = tuple(name for name in able if name not in chosen[INT8])
        step = QuantizeStatic(seen.runtime, exclude=others)
        parts[STATIC] = step.choose_from(folded, statistics, seed)
        graph = _applied(folded.copy(), STATIC, parts[STATIC])
    if chosen["int4"]:
        now = _names_now(graph)
        include = tuple(now[name] for name in chosen["int4"])
        weights = QuantizeWeights(seen.runtime, bits=SPEC.bits, include=include)
        parts[BLOCKS] = weights.choose_from(graph)
    return parts


def _applied(graph: Traced, name: str, part: Choices) -> Traced:
    """A graph with one part of the choices in it; static quantization is put in place."""
    if name == STATIC:
        return insert(graph, part)
    result = QuantizeWeights(part.plan["runtime"], bits=SPEC.bits).rewrite(graph, part)
    assert isinstance(result, Traced)
    return result


def _part(choices: Choices, name: str) -> Choices:
    tensors = {
        key.removeprefix(f"{name}:"): tensor
        for key, tensor in choices.tensors.items()
        if key.startswith(f"{name}:")
    }
    return Choices(choices.plan[name], tensors)


def _names_now(graph: Traced) -> dict[str, str]:
    """What the operators of the float graph are called in one that is quantized in parts."""
    found: dict[str, str] = {}
    for node, name in operator_names(graph.graph_module).items():
        found.setdefault(str(node.meta.get(NAME_KEY, name)), name)
    return found


def _coverage(
    folded: Traced, seen: Survey, rows: Sequence[AllocationRow], parts: Mapping[str, Choices]
) -> list[Coverage]:
    """The coverage table of the static part, with what became of the layers beside it."""
    if STATIC in parts:
        table = coverage(parts[STATIC])
    else:
        table = place(folded.graph_module, policy_for(seen.runtime)).coverage
    mine = {row.layer: row for row in rows}
    found = []
    for row in table:
        layer = mine.get(row.operator)
        if layer is not None:
            state = STATES.get(layer.precision, FLOAT)
            found.append(replace(row, state=state, reason=layer.why))
        elif STATIC not in parts and row.state != FLOAT:
            found.append(replace(row, state=FLOAT, reason="what it reads is float"))
        else:
            found.append(row)
    return found


def mixed_precision(
    model: nn.Module,
    calibration: Iterable[Any],
    limit: float,
    *,
    runtime: str = "onnxruntime",
    precisions: tuple[str, ...] = ("float32", INT8),
    minimise: Minimise = "loss",
    exclude: tuple[str, ...] = (),
    cost: Cost | None = None,
) -> Traced:
    """Give each layer of a model the precision that a limit leaves it.

    Args:
        model: in eval mode; left as it was.
        calibration: batches: a tensor, a tuple of the model's positional arguments, a dict of its
            keyword ones, or `Inputs`. Iterated once; the first is the example the model is traced
            with.
        limit, runtime, precisions, minimise, exclude, cost: as of `MixedPrecision`.

    Returns:
        A module called like the original that simulates the quantized arithmetic.

    Raises:
        InvalidInput, Unsupported, Infeasible, NoEffect: as `MixedPrecision.choose_from`.
    """
    step = MixedPrecision(limit, runtime, precisions, minimise, exclude, cost)
    folded, calls = folded_with_calls("mixed_precision", model, calibration)
    result = step.rewrite(folded, step.choose_from(folded, calibrate(folded, calls)))
    assert isinstance(result, Traced)
    return result

"""SmoothQuant: move the trouble of a few large channels from activations into weights.

    X W^T = (X / s) (W s)^T,   s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)

Activations are quantized per tensor, so one channel a hundred times larger than the rest leaves
the rest two or three levels; weights are quantized per output channel and have room. Divided by
s, the channels come closer together. The function stays the same to float rounding: this is a step
on the float graph, before quantization of any kind.

The factors go where they are free, or into a multiplication of the value, which is inserted only
where the layer's error falls enough to be worth it; the plan says which. Alpha is chosen for the
model from calibration data, "off" included (see `choose`).

Left out: moving factors through GELU or SiLU (not homogeneous); smoothing of attention's queries
and keys (their product is quantized where that is faster, and was not seen to suffer).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import fx, nn

from burnish.core import Choices, Rewrite
from burnish.errors import InvalidInput, NoEffect
from burnish.goal import Goal
from burnish.graph import Traced, add_tensor, finish, operator_names
from burnish.quantize._calibration.calibrate import Statistics
from burnish.quantize._calibration.sample import Sample, empty_sample
from burnish.quantize._graphs.coverage import Coverage
from burnish.quantize._graphs.entry import (
    calibration_calls,
    float_graph,
    fold,
    folded_with_calls,
    planned,
    refuse_quantized,
    trace_for,
)
from burnish.quantize._rescaling.scale import scale_made, scale_read
from burnish.quantize._smooth.choose import NEEDED, Table, Trial, watch
from burnish.quantize._smooth.groups import Group, find_groups

aten = torch.ops.aten
SMOOTHED, LEFT = "smoothed", "left alone"


@dataclass(frozen=True)
class SmoothQuant(Rewrite):
    """Equalize the channels that linear layers read, without changing the function.

    Args:
        alpha: how much of the trouble moves into the weights, 0 to 1; "auto" chooses.
        multiply: insert multiplications where the factors have nowhere else to go and gain enough.
    """

    alpha: float | str = "auto"
    multiply: bool = True

    def __post_init__(self) -> None:
        number = isinstance(self.alpha, int | float) and not isinstance(self.alpha, bool)
        if self.alpha != "auto" and not (number and 0.0 <= float(self.alpha) <= 1.0):
            raise InvalidInput(f"SmoothQuant(alpha={self.alpha!r}): 'auto', or 0 to 1")

    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        """Look at a sample of the goal's calibration data and decide."""
        folded = fold(trace_for(model, goal))
        return self.choose_from(folded, sampled(folded, calibration_calls(goal)))

    def choose_from(self, folded: Traced, seen: Statistics | Sample) -> Choices:
        """Decide from a sample of the data.

        Raises:
            NoEffect: no linear layer to smooth, or "off" is as good; with the errors measured.
            InvalidInput: no data, a value that is not finite, or a model quantized already.
        """
        refuse_quantized(folded, "SmoothQuant")
        sample = seen.sample if isinstance(seen, Statistics) else seen
        calls = list(sample.batches())
        if not calls:
            raise InvalidInput("SmoothQuant: the calibration data is empty")
        groups, left = find_groups(folded, calls[0])
        names = operator_names(folded.graph_module)
        reasons = {names[node]: why for node, why in left.items()}
        if not self.multiply:
            for group in [g for g in groups if g.into is None]:
                reasons |= {names[linear]: group.why for linear in group.linears}
            groups = [group for group in groups if group.into is not None]
        if not groups:
            raise NoEffect(f"SmoothQuant: nothing to smooth.{_listed(reasons)}")
        table = Table(folded.graph_module, groups, watch(folded, groups, calls))
        return _choices(folded, table, self._decide(table), reasons)

    def _decide(self, table: Table) -> Trial:
        if self.alpha != "auto":
            best = table.try_alpha(float(self.alpha))
            if best.factors:
                return best
        else:
            best = table.best()
            if best.factors and best.mean <= NEEDED * table.mean_off:
                return best
        raise NoEffect(
            f"SmoothQuant: off is as good: the layers' mean relative squared error is "
            f"{table.mean_off:.3g} without, {best.mean:.3g} with alpha {best.alpha:g} "
            f"(at most {NEEDED:g} of it was wanted). Leave the step out."
        )

    def rewrite(self, model: nn.Module, choices: Choices) -> nn.Module:
        """The smoothed float graph. Pure: equal choices give equal graphs."""
        return _smoothed(float_graph(model, choices), choices)


def smooth(
    model: nn.Module,
    calibration: Iterable[Any],
    *,
    alpha: float | str = "auto",
    multiply: bool = True,
) -> Traced:
    """SmoothQuant as a function: the same model, easier to quantize.

    Args:
        model: in eval mode; left as it was.
        calibration: batches as for `quantize_static`. Iterated once; at most 128 samples are used.
        alpha: "auto", or 0 to 1.
        multiply: allow inserted multiplications.

    Returns:
        A float module called like the original, with the same outputs to float rounding.

    Raises:
        InvalidInput: no calibration data, or a setting out of range.
        NoEffect: nothing to smooth, or nothing gained by it.
        Unsupported: the model cannot be exported.
    """
    step = SmoothQuant(alpha, multiply)
    folded, calls = folded_with_calls("smooth", model, calibration)
    result = step.rewrite(folded, step.choose_from(folded, sampled(folded, calls)))
    assert isinstance(result, Traced)
    return result


def sampled(folded: Traced, calls: Iterable[tuple[torch.Tensor, ...]]) -> Sample:
    """A sample of the data, without statistics of anything."""
    sample = empty_sample(folded)
    for tensors in calls:
        sample = sample.observe(tensors)
    return sample


def _choices(folded: Traced, table: Table, trial: Trial, reasons: dict[str, str]) -> Choices:
    """The plan: {"call", "alpha", "error", "error_off", "groups": [{"value", "linears", "into",
    "error", "error_off", "why"}], "coverage"}; tensors: the factors of each group."""
    names = operator_names(folded.graph_module)
    rows, coverage, tensors = [], [], {}
    for index, group in enumerate(table.groups):
        value, linears = names[group.value], [names[linear] for linear in group.linears]
        off = table.off[index]
        if index not in trial.factors:
            why = "smoothing does not lower its error"
            if group.into is None:
                why += f" enough for a multiplication ({group.why})"
            reasons |= dict.fromkeys(linears, why)
            continue
        factor = trial.factors[index]
        tensors[f"smooth:{value}"] = factor
        if group.into is not None:
            assert group.origin is not None
            tensors[f"into:{value}"] = _by_origin(group, factor, folded)
        into = None if group.into is None else names[group.into]
        rows.append(
            {
                "value": value,
                "linears": linears,
                "into": into,
                "error": trial.errors[index],
                "error_off": off,
                "why": group.why,
            }
        )
        how = f"inside {into}" if into else f"costs a multiplication: {group.why}"
        coverage += [Coverage(linear, "linear", SMOOTHED, how) for linear in linears]
    coverage += [Coverage(name, "linear", LEFT, why) for name, why in reasons.items()]
    order = {name: index for index, name in enumerate(names.values())}
    coverage.sort(key=lambda row: order[row.operator])
    plan = {
        "call": dict(folded.call),
        "alpha": trial.alpha,
        "error": trial.mean,
        "error_off": table.mean_off,
        "groups": rows,
        "coverage": [asdict(row) for row in coverage],
    }
    return Choices(plan, tensors)


def _by_origin(group: Group, factor: torch.Tensor, folded: Traced) -> torch.Tensor:
    """1 / factor for each channel of what takes the factors in; 1 for channels not read."""
    assert group.into is not None and group.origin is not None
    size = int(group.into.meta["val"].shape[-1])
    made = torch.ones(size, dtype=torch.float64)
    made[group.origin] = 1 / factor
    return made


def _smoothed(folded: Traced, choices: Choices) -> Traced:
    module = folded.graph_module
    wanted = [n for g in choices.plan["groups"] for n in (g["value"], *g["linears"], g["into"])]
    nodes = planned(module, (name for name in wanted if name is not None))
    for group in choices.plan["groups"]:
        value, factor = group["value"], choices.tensors[f"smooth:{group['value']}"]
        linears = [nodes[name] for name in group["linears"]]
        for linear in linears:
            scale_read(module, linear, factor)
        if group["into"] is not None:
            scale_made(module, nodes[group["into"]], choices.tensors[f"into:{value}"])
        else:
            _multiply(module, nodes[value], value, linears, 1 / factor)
    finish(module)
    return folded


def _multiply(
    module: fx.GraphModule,
    value: fx.Node,
    name: str,
    linears: list[fx.Node],
    factor: torch.Tensor,
) -> None:
    first = next(node for node in module.graph.nodes if node in linears)
    with module.graph.inserting_before(first):
        stored = add_tensor(module, f"{name}_smooth", factor.float())
        product = module.graph.call_function(aten.mul.Tensor, (value, stored))
    product.meta = {key: value.meta[key] for key in ("val", "nn_module_stack") if key in value.meta}
    for linear in linears:
        linear.replace_input_with(value, product)


def _listed(reasons: dict[str, str]) -> str:
    lines = [f"\n  {name}: {why}" for name, why in list(reasons.items())[:8]]
    return "".join(lines) or " The model has no linear layers."

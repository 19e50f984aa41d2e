"""From statistics to choices: what `QuantizeStatic.choose` decides.

The plan is plain JSON; see `decide`. Gains of equalization and corrected biases are tensors, and
the integers of weights that were learned or have fewer than 8 bits, with their scales. All other
weights are rounded again from the model by `rewrite`, which gives the same integers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import fx

from burnish.core import Choices
from burnish.errors import NoEffect
from burnish.graph import Traced, operator, operator_names
from burnish.quantize._calibration.calibrate import Statistics
from burnish.quantize._calibration.observe import Histogram, histogram
from burnish.quantize._calibration.range import Params, choose_range
from burnish.quantize._graphs.coverage import Coverage, Placement
from burnish.quantize._graphs.place import place
from burnish.quantize._graphs.policy import MOVES, policy_for
from burnish.quantize._rescaling.equalize import Pair, depthwise_pairs, gains
from burnish.quantize._static.grids import grids, has_weights
from burnish.quantize._static.recurrent import decide_recurrent
from burnish.quantize._static.refine import refine
from burnish.quantize._static.select import Gain, select_ranges
from burnish.quantize._static.settings import Settings


def decide(folded: Traced, statistics: Statistics, settings: Settings, seed: int = 0) -> Choices:
    """Choose placement, ranges, gains and biases.

    The plan: {"call", "runtime", "operators": int8 operators, "quantizers": {value: {scale,
    zero_point, readers}}, "equalized": [operator pairs], "grids": {operator: the integers its
    weights may take, where not -127 to 127}, "recurrent": {LSTM: its scales}, "coverage": [rows]}.
    """
    module = folded.graph_module
    placement = place(module, policy_for(settings.runtime), settings.exclude, settings.include)
    int8 = placement.int8()
    recurrent, rows = decide_recurrent(
        folded, placement.coverage, statistics.sample, settings.runtime
    )
    if not int8 and not recurrent:
        raise NoEffect(_nothing(rows))
    names = operator_names(module)
    tensors: dict[str, torch.Tensor] = {}
    histograms = dict(statistics.histograms)
    means = {name: channels.mean for name, channels in statistics.inputs.items()}
    pairs = _equalized(module, names, placement, statistics) if settings.equalize else {}
    for value, (pair, gain) in pairs.items():
        tensors[f"gain:{names[pair.producer]}"] = gain
        histograms[value] = _lifted(statistics, value, gain)
        means[names[pair.depthwise]] = means[names[pair.depthwise]] * gain
    params = _ranges(folded, placement, replace(statistics, histograms=histograms), settings, pairs)
    layers = [n for node, n in names.items() if n in set(int8) and has_weights(module, node)]
    chosen = grids(module, names, layers, settings.weights)
    plan: dict[str, Any] = {
        "call": dict(folded.call),
        "runtime": settings.runtime,
        "operators": list(int8),
        "quantizers": {
            value: {
                "scale": params[value].scale,
                "zero_point": params[value].zero_point,
                "readers": None if readers is None else list(readers),
            }
            for value, readers in placement.quantizers.items()
        },
        "equalized": [
            [
                names[p.producer],
                None if p.activation is None else names[p.activation],
                names[p.depthwise],
            ]
            for p, _ in pairs.values()
        ],
        "grids": chosen.entries,
        "recurrent": recurrent,
    }
    sample, choices = statistics.sample, Choices(plan, tensors)
    refined = refine(folded, choices, layers, sample, means, settings, seed)
    plan["coverage"] = [_noted(row, chosen.notes, refined.notes) for row in rows]
    return Choices(plan, {**tensors, **refined.tensors})


def _noted(row: Coverage, *notes: Mapping[str, str]) -> dict[str, str]:
    """A row of the coverage table with what is special about its operator."""
    said = [text for text in (row.reason, *(known.get(row.operator) for known in notes)) if text]
    return asdict(replace(row, reason="; ".join(said)))


def _nothing(rows: Sequence[Coverage]) -> str:
    reasons: dict[str, list[str]] = {}
    for row in rows:
        reasons.setdefault(row.reason, []).append(row.operator)
    lines = [f"  {reason}: {', '.join(ops[:4])}" for reason, ops in reasons.items()]
    return "no operator could be quantized to int8:\n" + "\n".join(lines)


def _equalized(
    module: fx.GraphModule,
    names: dict[fx.Node, str],
    placement: Placement,
    statistics: Statistics,
) -> dict[str, tuple[Pair, torch.Tensor]]:
    int8 = set(placement.int8())
    found = {}
    for pair in depthwise_pairs(module):
        value = names[pair.value]
        both = names[pair.producer] in int8 and names[pair.depthwise] in int8
        if both and value in placement.quantizers and value in statistics.outputs:
            seen = statistics.outputs[value]
            gain = gains(seen.low, seen.high)
            if gain is not None:
                found[value] = (pair, gain)
    return found


def _lifted(statistics: Statistics, value: str, gain: torch.Tensor) -> Histogram:
    """The histogram of a value whose channels were multiplied by their gains."""
    sample, seen = statistics.samples[value], statistics.outputs[value]
    lifted = histogram((sample.value * gain[sample.channel.long()]).float(), 1 << 20)
    return lifted.between(float((seen.low * gain).min()), float((seen.high * gain).max()))


def _ranges(
    folded: Traced,
    placement: Placement,
    statistics: Statistics,
    settings: Settings,
    pairs: Mapping[str, tuple[Pair, torch.Tensor]],
) -> dict[str, Params]:
    """The range of each value, by one method for all or by the best one for each."""
    names = operator_names(folded.graph_module)
    nodes = {name: node for node, name in names.items()}
    merged: dict[str, Histogram] = {}
    for value, group in placement.groups.items():
        mine = _seen(nodes[value], names, statistics.histograms)
        merged[group] = merged[group].united(mine) if group in merged else mine
    symmetric = policy_for(settings.runtime).symmetric
    if settings.ranges == "per layer":
        lifted = {value: Gain(pair.axis, gain) for value, (pair, gain) in pairs.items()}
        methods = select_ranges(
            folded, placement, merged, statistics, symmetric=symmetric, gains=lifted
        )
    else:
        methods = dict.fromkeys(merged, settings.ranges)
    chosen = {
        group: choose_range(hist, methods[group], symmetric) for group, hist in merged.items()
    }
    return {value: chosen[group] for value, group in placement.groups.items()}


def _seen(node: fx.Node, names: dict[fx.Node, str], histograms: dict[str, Histogram]) -> Histogram:
    """The histogram of a value, or of that whose data it moves."""
    while names[node] not in histograms:
        assert operator(node) in MOVES, f"{names[node]} was not watched"
        source = node.args[0]
        assert isinstance(source, fx.Node)
        node = source
    return histograms[names[node]]

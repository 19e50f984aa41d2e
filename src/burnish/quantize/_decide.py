"""From statistics to choices: what `QuantizeStatic.choose` decides.

The plan is plain JSON; see `decide`. Gains of equalization and corrected biases are the only
tensors: weights are rounded again from the model by `rewrite`, which gives the same integers.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, Protocol

import torch
from torch import fx

from burnish.core import Choices
from burnish.errors import NoEffect
from burnish.graph import Traced, operator, operator_names, tensor_of
from burnish.quantize._calibrate import Statistics
from burnish.quantize._equalize import Pair, depthwise_pairs, gains
from burnish.quantize._node import groups_of, weight_axis
from burnish.quantize._observe import Histogram, histogram
from burnish.quantize._place import Placement, place
from burnish.quantize._policy import MOVES, WEIGHTED, policy_for
from burnish.quantize._range import Method, Params, choose_range
from burnish.quantize._weights import along, bias_shift, round_weight, weight_scales


class Settings(Protocol):
    """The settings of `QuantizeStatic`, as `decide` reads them."""

    @property
    def runtime(self) -> str: ...
    @property
    def ranges(self) -> Method: ...
    @property
    def bias_correction(self) -> bool: ...
    @property
    def equalize(self) -> bool: ...
    @property
    def exclude(self) -> tuple[str, ...]: ...


def decide(folded: Traced, statistics: Statistics, settings: Settings) -> Choices:
    """Choose placement, ranges, gains and biases.

    The plan: {"call", "runtime", "operators": int8 operators, "quantizers": {value: {scale,
    zero_point, readers}}, "equalized": [operator pairs], "coverage": [rows]}.
    """
    module = folded.graph_module
    placement = place(module, policy_for(settings.runtime), settings.exclude)
    int8 = placement.int8()
    if not int8:
        raise NoEffect(_nothing(placement))
    names = operator_names(module)
    tensors: dict[str, torch.Tensor] = {}
    histograms = dict(statistics.histograms)
    means = {name: channels.mean for name, channels in statistics.inputs.items()}
    pairs = _equalized(module, names, placement, statistics) if settings.equalize else {}
    for value, (pair, gain) in pairs.items():
        tensors[f"gain:{names[pair.producer]}"] = gain
        histograms[value] = _lifted(statistics, value, gain)
        means[names[pair.depthwise]] = means[names[pair.depthwise]] * gain
    params = _ranges(names, placement, histograms, settings)
    if settings.bias_correction:
        tensors |= _corrections(module, names, placement, params, means, pairs)
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
        "coverage": [asdict(row) for row in placement.coverage],
    }
    return Choices(plan, tensors)


def _nothing(placement: Placement) -> str:
    reasons: dict[str, list[str]] = {}
    for row in placement.coverage:
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
    return replace(lifted, low=float((seen.low * gain).min()), high=float((seen.high * gain).max()))


def _ranges(
    names: dict[fx.Node, str],
    placement: Placement,
    histograms: dict[str, Histogram],
    settings: Settings,
) -> dict[str, Params]:
    nodes = {name: node for node, name in names.items()}
    merged: dict[str, Histogram] = {}
    for value, group in placement.groups.items():
        mine = _seen(nodes[value], names, histograms)
        merged[group] = merged[group].merged(mine) if group in merged else mine
    symmetric = policy_for(settings.runtime).symmetric
    chosen = {
        group: choose_range(hist, settings.ranges, symmetric) for group, hist in merged.items()
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


def _corrections(
    module: fx.GraphModule,
    names: dict[fx.Node, str],
    placement: Placement,
    params: dict[str, Params],
    means: dict[str, torch.Tensor],
    pairs: dict[str, tuple[Pair, torch.Tensor]],
) -> dict[str, torch.Tensor]:
    """The corrected bias of every int8 operator with weights, before equalization gains."""
    up = {names[pair.producer]: gain for pair, gain in pairs.values()}
    down = {names[pair.depthwise]: gain for pair, gain in pairs.values()}
    int8 = set(placement.int8())
    corrected = {}
    for node, name in names.items():
        if name not in int8 or operator(node) not in WEIGHTED or name not in means:
            continue
        weight = tensor_of(module, node.args[1])
        assert weight is not None
        bias = tensor_of(module, node.args[2]) if len(node.args) > 2 else None
        weight, bias = gained(weight, bias, up.get(name), down.get(name))
        axis, groups = weight_axis(node), groups_of(node)
        scale = weight_scales(weight, axis, None, 1.0)
        rounded = round_weight(weight, scale, axis).double() * along(scale, weight, axis)
        shift = bias_shift(weight, rounded, means[name], operator(node), groups)
        old = torch.zeros_like(shift) if bias is None else bias.double()
        corrected[f"bias:{name}"] = (old - shift).float().detach()
    return corrected


def gained(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    up: torch.Tensor | None,
    down: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weights and bias of a convolution with equalization gains on its outputs and inputs.

    `up` [out] multiplies output channels, `down` [channels] divides a depthwise input's channels.
    """
    if down is not None:
        weight = (weight.double() / along(down, weight, 0)).to(weight.dtype)
    if up is not None:
        weight = (weight.double() * along(up, weight, 0)).to(weight.dtype)
        bias = None if bias is None else (bias.double() * up).to(bias.dtype)
    return weight, bias

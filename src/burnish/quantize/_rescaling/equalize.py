"""Depthwise equalization: give each channel before a depthwise convolution the same range.

A depthwise convolution's activations are quantized per tensor, because that is what runs in int8.
Its channels are independent, though, so channel c of the producer may be multiplied by k_c and the
depthwise weights of c divided by it without changing the function. Both weights are quantized per
output channel, so neither loses anything, and small channels get a fair share of the grid: k_c
lifts each channel's observed maximum to half of the tensor's (`HEADROOM`). ReLU commutes with it.
ReLU6 does too, in effect: every lifted channel stays below the tensor's own maximum, which is at
most 6, so the quantizer that follows saturates where the lifted clip would have or earlier, and a
plain ReLU stands in for it.

After Meller et al. 2019 and Nagel et al. 2019 (cross-layer equalization), restricted to the pairs
where nothing has to be traded off.

Left out: pairs whose second operator mixes channels; activations that do not commute (SiLU).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from burnish.graph import operator, tensor_of
from burnish.quantize._graphs.node import (
    groups_of,
    is_padding,
    pads_with_zero,
    rank_of,
    readers,
    rectifies,
)
from burnish.quantize._graphs.policy import CONVOLUTIONS

LARGEST_GAIN = 64.0
HEADROOM = 2.0
_NEEDED_SPREAD = 2.0


@dataclass(frozen=True)
class Pair:
    """producer → [ReLU or ReLU6] → [padding] → depthwise; `value` is what gets quantized."""

    producer: fx.Node
    activation: fx.Node | None
    value: fx.Node
    depthwise: fx.Node
    axis: int


def depthwise_pairs(module: fx.GraphModule) -> tuple[Pair, ...]:
    """All pairs of the graph in which nothing else reads what lies between."""
    pairs = []
    for node in module.graph.nodes:
        if (
            node.op == "call_function"
            and operator(node) in CONVOLUTIONS
            and _depthwise(module, node)
        ):
            pair = _pair(node)
            if pair is not None:
                pairs.append(pair)
    return tuple(pairs)


def gains(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor | None:
    """k_c for each channel from its observed extremes; None where it would change too little.

    A channel that never fires keeps gain 1: nothing is known of it. The others are lifted to half
    of the tensor's range: a channel's observed maximum is a matter of chance, and unseen data that
    goes beyond it must not saturate.
    """
    reach = torch.maximum(high.abs(), low.abs()).double()
    largest = reach.max()
    if largest <= 0:
        return None
    room = (HEADROOM * reach).clamp_min(1e-12)
    gain = torch.where(reach > 0, largest / room, torch.ones_like(reach))
    gain = gain.clamp(1.0, LARGEST_GAIN)
    if float(gain.median()) < _NEEDED_SPREAD:
        return None
    return gain


def _depthwise(module: fx.GraphModule, node: fx.Node) -> bool:
    weight = tensor_of(module, node.args[1])
    if weight is None:
        return False
    shape = weight.shape
    return bool(groups_of(node) == shape[0] and shape[1] == 1 and shape[0] > 1)


def _pair(depthwise: fx.Node) -> Pair | None:
    value = depthwise.args[0]
    while isinstance(value, fx.Node) and is_padding(value):
        if not _alone(value) or not pads_with_zero(value):
            return None
        value = value.args[0]
    if not isinstance(value, fx.Node) or not _alone(value):
        return None
    activation = None
    producer = value
    if rectifies(value):
        activation, producer = value, value.args[0]  # type: ignore[assignment]
    if not isinstance(producer, fx.Node) or operator(producer) not in CONVOLUTIONS:
        return None
    axis = rank_of(value) - 1 - int(operator(producer)[-2])
    return Pair(producer, activation, value, depthwise, axis) if _alone(producer) else None


def _alone(node: fx.Node) -> bool:
    return len(readers(node)) == 1

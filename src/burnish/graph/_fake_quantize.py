"""Fake quantization: quantizing and dequantizing in float, with gradients, as operators of our own.

`burnish::fake_quantize(x, scale, zero_point, low, high, axis)` gives what `burnish::dequantize` of
`burnish::quantize` gives, number for number, so that what is trained is what is deployed. Its
gradient passes straight through where x lies in the range and is zero where it saturates (Bengio,
Leonard and Courville, 2013); the scale's is that of LSQ (Esser, McKinstry, Bablani, Appuswamy and
Modha, 2019), with their factor 1 / sqrt(n q_max).

Where a scale comes from is an operator before it. `learned_scale` is a parameter in units of the
first scale: ratio * unit. An optimizer whose steps do not shrink with the gradient (Adam) then
moves scales of every size by the same share; the ratio's gradient is divided by the unit, so that a
step of plain gradient descent is LSQ's step on the scale itself. Of a vector by the largest unit:
LSQ has one scale for a tensor, and its steps throw the scales of channels about that are small
beside the others, as where a batch-norm nearly switched them off. Below the first scale the
logarithm is what is learned, exp(ratio - 1): the same slope there, smaller steps the smaller it
gets, and never through zero, where LSQ's own parameter goes when a step is too long.
`observed_scale` follows the extremes of what it sees by a moving average. Both stand still from a
share of the training on, which they read from a buffer of the graph: `set_progress` writes it. Both
stop the training, by the layer's name, where a range has collapsed.

`fake_bias` rounds a bias to the grid of the accumulators, straight through.

Computed in float32, whatever autocast says: bfloat16 cannot count to 255 and a half.

Left out: learning the zero point (LSQ+); noise in place of rounding; stochastic rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from burnish.errors import InvalidInput
from burnish.graph._ops import _along
from burnish.graph._trace import Traced

LEAST, MOST = 1e-3, 1e3
MOMENTUM = 0.01
PROGRESS = "burnish_progress"
_INT32 = 2**31 - 1


@torch.library.custom_op("burnish::fake_quantize", mutates_args=())
def fake_quantize(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    low: int,
    high: int,
    axis: int,
) -> torch.Tensor:
    """x on the grid of the scale; float32 inside, the result has x's type.

    Args:
        x: an activation with samples along axis 0, or a weight.
        scale: a scalar with axis -1 (per tensor), a vector along `axis` (per channel).
        zero_point: a scalar that holds an integer; None is 0, and marks a weight.
        low: the least integer.
        high: the largest.
        axis: of the channels.
    """
    step, edges = _along(scale, x, axis), _edges(zero_point, low, high)
    return torch.div(x.float(), step).round_().clamp_(*edges).mul_(step).to(x.dtype)


@fake_quantize.register_fake
def _(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    low: int,
    high: int,
    axis: int,
) -> torch.Tensor:
    return torch.empty_like(x)


def _edges(zero_point: torch.Tensor | None, low: int, high: int) -> tuple[float, float]:
    """The ends of the grid in steps from zero. Exact: integers of 9 bits in float32."""
    zero = 0.0 if zero_point is None else float(zero_point)
    return low - zero, high - zero


def _remember(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, scale, zero_point, low, high, ctx.axis = inputs
    ctx.edges, ctx.is_weight = _edges(zero_point, low, high), zero_point is None
    ctx.save_for_backward(x, scale)


def _fake_quantize_backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    x, scale = ctx.saved_tensors
    low, high = ctx.edges
    steps = torch.div(x.float(), _along(scale, x, ctx.axis))
    rounded = torch.round(steps)
    inside = (rounded >= low).logical_and_(rounded <= high)
    to_scale = None
    if ctx.needs_input_grad[1]:
        slope = rounded.clamp_(low, high).sub_(steps.mul_(inside)).mul_(grad)
        others = [axis for axis in range(x.dim()) if axis != ctx.axis]
        to_scale = slope.sum(others) if others else slope
        num = x.numel() // max(scale.numel(), 1)
        num = num if ctx.is_weight else num // max(x.shape[0] if x.dim() else 1, 1)
        to_scale = to_scale * (max(num, 1) * max(high, -low)) ** -0.5
    return grad * inside, to_scale, None, None, None, None


fake_quantize.register_autograd(_fake_quantize_backward, setup_context=_remember)


@torch.library.custom_op("burnish::learned_scale", mutates_args=())
def learned_scale(
    ratio: torch.Tensor,
    unit: torch.Tensor,
    progress: torch.Tensor,
    frozen_from: float,
    name: str,
    training: bool,
) -> torch.Tensor:
    """A scale that is learned: ratio * unit from 1 up, exp(ratio - 1) * unit below.

    Args:
        ratio: what is learned, of the scale's shape; 1 at first.
        unit: the first scale.
        progress: a scalar, the share of the training that is done.
        frozen_from: the share from which on the ratio has no gradient.
        name: of whose scale this is, for the refusal.
        training: the graph's mode: in eval mode nothing is frozen.

    Raises:
        InvalidInput: a scale that is not between 1/1000 and 1000 of the first, or not finite.
    """
    times = _times(ratio)
    if not bool(((times >= LEAST) & (times <= MOST)).all()):
        largest, least = float(times.max()), float(times.min())
        raise _collapsed(name, f"its learned scale is {least:.3g} to {largest:.3g} times the first")
    return times * unit


def _times(ratio: torch.Tensor) -> torch.Tensor:
    """The first scale times what: positive whatever the ratio, with a slope of 1 where it is 1."""
    return torch.where(ratio < 1, torch.exp(ratio - 1), ratio)


@learned_scale.register_fake
def _(
    ratio: torch.Tensor,
    unit: torch.Tensor,
    progress: torch.Tensor,
    frozen_from: float,
    name: str,
    training: bool,
) -> torch.Tensor:
    return torch.empty_like(unit)


def _remember_unit(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ratio, unit, progress, frozen_from, _, training = inputs
    ctx.frozen = training and float(progress) >= frozen_from
    ctx.save_for_backward(ratio, unit)


def _learned_scale_backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    ratio, unit = ctx.saved_tensors
    if ctx.frozen:  # no gradient at all, instead of zeros: momentum then moves nothing either
        return None, None, None, None, None, None
    slope = torch.where(ratio < 1, torch.exp(ratio - 1), 1.0)
    return slope * grad / unit.max(), None, None, None, None, None


learned_scale.register_autograd(_learned_scale_backward, setup_context=_remember_unit)


@torch.library.custom_op("burnish::observed_scale", mutates_args=("seen",))
def observed_scale(
    x: torch.Tensor,
    seen: torch.Tensor,
    progress: torch.Tensor,
    member: int,
    symmetric: bool,
    first: float,
    frozen_from: float,
    name: str,
    training: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The scale and zero point of a range that is observed while the graph trains; uint8.

    Args:
        x: the value, detached.
        seen: float64 [members, 2], the moving averages of the least and the largest value of each
            tensor that shares the scale: in train mode row `member` takes x in.
        progress: a scalar, the share of the training that is done.
        member: which of the tensors x is.
        symmetric: zero point 128.
        first: the scale the training began with.
        frozen_from: the share from which on nothing is taken in.
        name: of the value, for the refusal.
        training: the graph's mode.

    Returns:
        float32 scalars.

    Raises:
        InvalidInput: a range below 1/1000 of the first one, above 1000 of it, or not finite.
    """
    if training and x.numel() and float(progress) < frozen_from:
        now = torch.stack(torch.aminmax(x)).to(seen.dtype)
        seen[member] += MOMENTUM * (now - seen[member])
    low, high = min(float(seen[:, 0].min()), 0.0), max(float(seen[:, 1].max()), 0.0)
    scale = max(-low, high) / 127 if symmetric else (high - low) / 255
    # A comparison with NaN is false.
    if not LEAST * first <= scale <= MOST * first:
        raise _collapsed(name, f"its observed range is {low:.3g} to {high:.3g}, {first:.3g} a step")
    zero = 128 if symmetric else min(max(round(-low / scale), 0), 255)
    return torch.tensor(scale, device=x.device).float(), torch.tensor(float(zero), device=x.device)


@observed_scale.register_fake
def _(
    x: torch.Tensor,
    seen: torch.Tensor,
    progress: torch.Tensor,
    member: int,
    symmetric: bool,
    first: float,
    frozen_from: float,
    name: str,
    training: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    return x.new_empty((), dtype=torch.float32), x.new_empty((), dtype=torch.float32)


def _collapsed(name: str, what: str) -> InvalidInput:
    return InvalidInput(
        f"the range of {name!r} collapsed in training: {what}. Lower the learning rate or clip the "
        "gradient (Tricks(clip=1.0)); where it is this layer alone, keep it in float "
        "(PrepareQat(exclude=…))"
    )


@torch.library.custom_op("burnish::fake_bias", mutates_args=())
def fake_bias(bias: torch.Tensor, scale: torch.Tensor, input_scale: torch.Tensor) -> torch.Tensor:
    """bias [out] on the grid of the int32 accumulators: the weight's scale times the input's."""
    grid = scale.double() * input_scale.double()
    steps = (bias.double() / grid).round_().clamp_(-_INT32, _INT32)
    return (steps.float() * grid.float()).to(bias.dtype)


@fake_bias.register_fake
def _(bias: torch.Tensor, scale: torch.Tensor, input_scale: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(bias)


def _nothing_to_remember(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    pass


def _fake_bias_backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return grad, None, None


fake_bias.register_autograd(_fake_bias_backward, setup_context=_nothing_to_remember)


def set_progress(module: nn.Module, progress: float) -> None:
    """Tell a graph with fake quantizers what share of its training is done, from 0 to 1.

    Any other module is left alone. A training loop says it before each batch; without that, ranges
    never freeze.
    """
    if isinstance(module, Traced):
        held = dict(module.graph_module.named_buffers()).get(PROGRESS)
        if held is not None:
            held.fill_(progress)


FAKE_QUANTIZE = torch.ops.burnish.fake_quantize.default
LEARNED_SCALE = torch.ops.burnish.learned_scale.default
OBSERVED_SCALE = torch.ops.burnish.observed_scale.default
FAKE_BIAS = torch.ops.burnish.fake_bias.default
FAKE = frozenset({FAKE_QUANTIZE, LEARNED_SCALE, OBSERVED_SCALE, FAKE_BIAS})

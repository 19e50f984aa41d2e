"""AdaRound: which weights to round up and which down, learned from what the layer does.

Rounding each weight to its nearest integer is best for the weight and not for the layer: errors of
one output's weights add up, and inputs differ in power and are correlated. Here each weight goes
to floor(w / s) + h with h = clip(1.2 sigmoid(v) - 0.1, 0, 1), and v is learned by Adam so that the
layer's output, behind its activation, is near the float network's, given the input it really gets
from the network quantized so far (asymmetric reconstruction). A regulariser, sum of
1 - |2h - 1|^beta, drives h to 0 or 1: off for the first fifth of the steps, then with beta annealed
from 20 to 2 along a half cosine. At the end h is cut at one half.

A layer is learned as a matrix product on a bank of sampled rows (`_graphs.matrix`): a step is three
small products and a few passes over the weights, whatever the size of the images. The bank is
shuffled once and minibatches are slices of it. A fifth of the samples is held out: where learned
integers do not lower the error there, those to nearest stay. The loss is taken relative to that of
rounding to nearest, so that one weight of the regulariser serves all layers.

After Nagel, Amjad, van Baalen, Louizos and Blankevoort, 2020, *Up or down? Adaptive rounding for
post-training quantization*; they take 10,000 steps of full images at a rate of 0.01, here it is
`STEPS` of sampled rows at `RATE`.

Left out: learning whole blocks at once (Li et al. 2021, BRECQ); learning the scales along.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from burnish.quantize._tensors.weights import Grid

STEPS = 500
BATCH = 256
RATE = 0.1
PENALTY = 10.0
WARM = 0.2
BETAS = (20.0, 2.0)


@dataclass(frozen=True)
class Bank:
    """Rows a layer is learned from: inputs [groups, rows, in], wanted outputs [groups, rows, out].

    `clamp` is what the activation behind the layer clamps to; infinite where there is none.
    """

    inputs: torch.Tensor
    wanted: torch.Tensor
    clamp: tuple[float, float]

    def error(self, weight: torch.Tensor, bias: torch.Tensor) -> float:
        """The mean squared error of a layer with these weights."""
        out = torch.baddbmm(bias, self.inputs, weight.transpose(1, 2)).clamp_(*self.clamp)
        return float(out.sub_(self.wanted).square_().mean())


@dataclass(frozen=True)
class Learned:
    """Integers [groups, out, in], and the held-out error with them and with those to nearest."""

    integers: torch.Tensor
    error: float
    nearest: float


def learn(
    weight: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    grid: Grid,
    banks: tuple[Bank, Bank],
    seed: int,
) -> Learned:
    """Learn the rounding of one layer.

    Args:
        weight: [groups, out, in].
        scale: broadcasts against it.
        bias: [groups, 1, out].
        grid: the integers there are.
        banks: to learn from, and to judge by.
        seed: of the order of the rows.
    """
    steps = weight / scale
    nearest = steps.round().clamp(grid.low, grid.high)
    floor = steps.floor().clamp_(grid.low, grid.high - 1)
    train, held = banks
    before = train.error(nearest * scale, bias)
    errors = held.error(nearest * scale, bias)
    if before == 0.0 or weight.numel() == 0:
        return Learned(nearest, errors, errors)
    up = _descend(floor, (steps - floor).clamp_(0, 1), scale, bias, train, before, seed)
    integers = floor + up
    return Learned(integers, held.error(integers * scale, bias), errors)


def _descend(
    floor: torch.Tensor,
    fraction: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    bank: Bank,
    before: float,
    seed: int,
) -> torch.Tensor:
    """1 where to round up. The gradient is written out: it is three products and a few passes."""
    shuffled = torch.randperm(bank.inputs.shape[1], generator=torch.Generator().manual_seed(seed))
    inputs, wanted = bank.inputs[:, shuffled], bank.wanted[:, shuffled]
    size = min(BATCH, inputs.shape[1])
    v = torch.logit((fraction + 0.1) / 1.2)
    first, second = torch.zeros_like(v), torch.zeros_like(v)
    # d loss / d weight, with the loss in units of the error to nearest for each weight.
    unit = 2.0 * floor.numel() / (size * wanted.shape[0] * wanted.shape[2] * before)
    start = 0
    for step in range(STEPS):
        if start + size > inputs.shape[1]:
            start = 0
        x, y = inputs[:, start : start + size], wanted[:, start : start + size]
        start += size
        soft = torch.sigmoid(v)
        h = (soft * 1.2).sub_(0.1)
        inside = (h > 0) & (h < 1)
        h.clamp_(0, 1)
        out = torch.baddbmm(bias, x, ((floor + h) * scale).transpose(1, 2))
        error = _through(out, y, bank.clamp)
        slope = torch.bmm(error.transpose(1, 2), x).mul_(unit).mul_(scale)
        share = step / STEPS
        if share >= WARM:
            slope.sub_(_pull(h, (share - WARM) / (1 - WARM)))
        slope.mul_(soft.mul_(1 - soft)).mul_(inside)
        first.mul_(0.9).add_(slope, alpha=0.1)
        second.mul_(0.999).addcmul_(slope, slope, value=0.001)
        rate = RATE / (1 - 0.9 ** (step + 1))
        root = (second / (1 - 0.999 ** (step + 1))).sqrt_().add_(1e-8)
        v.addcdiv_(first, root, value=-rate)
    return (v > 0).to(floor.dtype)


def _through(out: torch.Tensor, wanted: torch.Tensor, clamp: tuple[float, float]) -> torch.Tensor:
    """The error behind the activation, zero where that is flat."""
    low, high = clamp
    if math.isinf(low) and math.isinf(high):
        return out.sub_(wanted)
    error = out.clamp(low, high).sub_(wanted)
    return error.mul_((out > low) & (out < high))


def _pull(h: torch.Tensor, share: float) -> torch.Tensor:
    """Minus the regulariser's slope: towards the nearer of 0 and 1."""
    beta = BETAS[1] + (BETAS[0] - BETAS[1]) * 0.5 * (1 + math.cos(share * math.pi))
    centred = h.mul(2).sub_(1)
    return centred.abs().pow_(beta - 1).mul_(centred.sign()).mul_(2 * beta * PENALTY)

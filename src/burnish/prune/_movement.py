"""Movement: a weight matters that a training moves away from zero.

Scores S begin at 0 and are trained beside the weights. In each step the network computes with
W ⊙ M, M the mask of the best scores by then; the gradient of the mask is passed straight through to
the scores. Plain stochastic gradient descent, as the paper states it:

    S ← S − η · ∂L/∂(W ⊙ M) ⊙ W        W ← W − η · ∂L/∂(W ⊙ M) ⊙ M

The gradient of all weights together is clipped to norm 1: a network whose masks have just closed
has gradients that no rate suits.

A score rises where the step leads away from zero, masked or not, so that a weight can come back.
Sparsity grows from 0 by the cubic schedule of Zhu and Gupta (2017), one batch a step, in one pass
over at most `MOST_SAMPLES` samples whose batches come in an order drawn from the seed. N:M keeps
M first and N last. The network is in eval mode: batch-norm and dropout are still. Only the weights
that are to be masked are trained, and what they have become goes with the masks.

After Sanh, Wolf and Rush, 2020, *Movement pruning: adaptive sparsity by fine-tuning*. Departures:
one short pass instead of epochs, plain descent where their experiments use Adam, one rate for
scores (whose order it does not change) and weights.

Left out: soft movement (a threshold instead of a share), and training after the mask is found:
`recover`, or `Train` on the masked model, does that with everything a training needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from burnish.core import copied_model
from burnish.errors import InvalidInput
from burnish.goal import Call
from burnish.prune._gradients import first_samples, gradients_of
from burnish.prune._mask import parameter_of
from burnish.prune._pattern import GONE, Pattern, masks_for
from burnish.prune._weight_layers import Weight

RATE = 0.01
LARGEST = 1.0  # norm of a gradient, all weights together
Tensors = dict[str, torch.Tensor]


def movement(
    model: nn.Module,
    weights: Sequence[Weight],
    calls: Iterable[Call],
    loss: Callable[[Any, Any], torch.Tensor],
    pattern: Pattern,
    sparsity: float | None,
    *,
    scope: str = "layer",
    seed: int = 0,
) -> tuple[Tensors, Tensors]:
    """The scores of the weights after a short training, and what the weights have become.

    Args:
        model: stays as it is.
        weights: those to be masked.
        calls: training data; at most `MOST_SAMPLES` samples of it are used.
        loss: of outputs and target.
        pattern, sparsity, scope: of the masks at the end of the schedule.
        seed: of the order of the batches.

    Raises:
        InvalidInput: no data, or a loss or gradient that is not finite.
    """
    batches = list(first_samples(calls))
    if not batches:
        raise InvalidInput("criterion='movement' needs data, and there is no batch")
    order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(seed)).tolist()
    work = copied_model(model).eval()
    stored = {weight.name: parameter_of(work, weight.name) for weight in weights}
    values = {weight.name: weight.value.detach().clone() for weight in weights}
    scores = {  # what is gone stays gone, and counts
        weight.name: torch.zeros_like(weight.value).masked_fill(~weight.kept, GONE)
        for weight in weights
    }
    for parameter in stored.values():
        parameter.requires_grad_(True)
    for step, index in enumerate(order):
        done = _ramp(step / len(order))
        masks = masks_for(
            {name: score.cpu() for name, score in scores.items()},
            _sparser(pattern, done),
            None if sparsity is None else done * sparsity,
            scope,
        )
        for name, gradient in _gradients(work, batches[index], loss, stored, values, masks).items():
            scores[name] -= RATE * gradient * values[name]
            values[name] -= RATE * gradient * masks[name].to(gradient)
    return {name: score.cpu() for name, score in scores.items()}, values


def _gradients(
    work: nn.Module,
    call: Call,
    loss: Callable[[Any, Any], torch.Tensor],
    stored: dict[str, nn.Parameter],
    values: Tensors,
    masks: Tensors,
) -> Tensors:
    """Of the loss, by what the network computes with, values times masks; clipped."""
    with torch.no_grad():
        for name, parameter in stored.items():
            parameter.copy_(values[name] * masks[name].to(values[name]))
    value = loss(work(*call.args, **call.kwargs), call.target)
    gradients = gradients_of(value, stored)
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    if not bool(torch.isfinite(norm + value)):
        raise InvalidInput(
            f"criterion='movement': the loss is {float(value.detach()):g} and its gradient has the "
            f"norm {float(norm):g}: look for NaN and infinity in the data, the weights and the loss"
        )
    return {name: gradient * (LARGEST / norm).clamp_max(1) for name, gradient in gradients.items()}


def _ramp(passed: float) -> float:
    """The share of the sparsity after a share of the steps."""
    return 1 - (1 - passed) ** 3


def _sparser(pattern: Pattern, done: float) -> Pattern:
    """An N:M pattern on its way: of M, M − done · (M − N) are kept."""
    if not pattern.of:
        return pattern
    return replace(pattern, keep=pattern.of - round(done * (pattern.of - pattern.keep)))

"""What a criterion for channels rests on besides the weights: gradients, or norms of inputs.

`taylor` and `fisher` take gradients of the loss on the training data, `hessian` gradients of the
outputs and `wanda` norms of inputs, both on calibration data without labels. The others look at
weights alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from burnish.errors import InvalidInput
from burnish.goal import Call, Goal
from burnish.graph import Traced
from burnish.prune._gradients import Gradient, loss_gradients, output_gradients
from burnish.prune._importance import FROM_LOSS, WITH_CALIBRATION
from burnish.prune._weight_layers import input_norms


@dataclass(frozen=True, eq=False)
class Evidence:
    """Gradients of each batch by parameter, and norms of the inputs of each weight."""

    gradients: Iterable[Gradient] = ()
    norms: Mapping[str, torch.Tensor] | None = None


def evidence_for(who: str, criterion: str, traced: Traced, goal: Goal) -> Evidence:
    """What a criterion needs, from a goal's data.

    Raises:
        InvalidInput: in the name of `who`: no loss, or no data, where some is needed.
    """
    task = goal.task
    if criterion in FROM_LOSS:
        if task.loss is None:
            raise InvalidInput(
                f"{who}(criterion={criterion!r}) needs Task(loss=…): 'hessian' and 'wanda' need "
                "neither loss nor labels"
            )
        return Evidence(loss_gradients(traced, task.calls("train"), task.loss))
    calls = task.calls("calibration") if criterion in WITH_CALIBRATION else ()
    return evidence_from(who, criterion, traced, calls, goal.seed)


def evidence_from(
    who: str, criterion: str, traced: Traced, calls: Iterable[Call], seed: int
) -> Evidence:
    """What a criterion needs, from calls without labels.

    Raises:
        InvalidInput: in the name of `who`: it needs a loss.
    """
    if criterion in FROM_LOSS:
        raise InvalidInput(
            f"{who}(criterion={criterion!r}) needs a loss: apply the step for a goal, or take "
            "'hessian' or 'wanda', which need neither loss nor labels"
        )
    if criterion == "wanda":
        return Evidence(norms=input_norms(traced, calls))
    return Evidence(output_gradients(traced, calls, seed)) if criterion == "hessian" else Evidence()

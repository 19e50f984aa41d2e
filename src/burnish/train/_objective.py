"""What a training minimises: named parts, added up.

`fit` knows batches, steps and gradients; an `Objective` knows what the model is asked for. It runs
the model itself, so that it may look inside it (hooks on layers) or run another one beside it (a
teacher), and it may hold modules that learn along (adapters between layers of unequal width).

Student and those modules go into one `Learner`: in several processes torch synchronises the
gradients of the one module it wraps, and a parameter outside it would drift apart unseen. The
objective is given the bare student, never a wrapper.

A loss is computed in float32, outside autocast: its sums of exponentials are where 16 bits hurt.

Left out: objectives with an optimizer of their own (adversarial training).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from burnish.errors import InvalidInput
from burnish.goal import Call, Task

PENALTY = "regularizer"


@runtime_checkable
class Growing(Protocol):
    """A regularizer that knows how far the training is, and what to write into its record.

    It depends on nothing else that changes, so that a training that is resumed goes on as it was.
    """

    def at(self, progress: float) -> Callable[[nn.Module], torch.Tensor]:
        """The function of the model to be added; `progress` as of `Moment`."""
        ...

    def settings(self) -> Mapping[str, Any]:
        """What is added, as plain JSON: a checkpoint of another penalty is refused by it."""
        ...


Regularizer = Callable[[nn.Module], torch.Tensor] | Growing


@dataclass(frozen=True)
class Moment:
    """Where in the training a batch is.

    `progress` is 0 at the first optimizer step and below 1 at the last. `step` counts optimizer
    steps over all epochs, `batch` the batches of this epoch, those of other processes included.
    `draw` is the seed this epoch's order and augmentation were drawn from; it covers the state of
    the data's own generator where it has one.
    """

    progress: float
    epoch: int
    step: int
    batch: int
    draw: int


@runtime_checkable
class Objective(Protocol):
    """What `fit` minimises."""

    def modules(self) -> nn.Module | None:
        """What it learns or keeps itself: moved to the device, saved, and trained with the model.

        Only parameters that take gradients are trained. Train and eval mode are left as they are.
        """
        ...

    def settings(self) -> Mapping[str, Any]:
        """What is minimised, as plain JSON: a checkpoint of another objective is refused by it."""
        ...

    def __call__(self, model: nn.Module, call: Call, moment: Moment) -> Mapping[str, torch.Tensor]:
        """Run `model` on the call and return scalar parts, already weighted; their sum is the loss.

        The call is on the model's device. Called inside autocast, where there is any.
        """
        ...


class TaskLoss:
    """The task's own loss of the model's output: what `fit` minimises unless told otherwise.

    Raises:
        InvalidInput: the task has no loss.
    """

    def __init__(self, task: Task) -> None:
        if task.loss is None:
            raise InvalidInput("fit() needs a loss: give Task(loss=lambda output, target: …)")
        self.task = task

    def modules(self) -> nn.Module | None:
        """Nothing learns beside the model."""
        return None

    def settings(self) -> Mapping[str, Any]:
        """The loss, by its name where it has one."""
        loss = self.task.loss
        return {"loss": getattr(loss, "__qualname__", type(loss).__qualname__)}

    def __call__(self, model: nn.Module, call: Call, moment: Moment) -> Mapping[str, torch.Tensor]:
        """One part, `loss`. InvalidInput where the loss needs a target and there is none."""
        output = model(*call.args, **call.kwargs)
        try:
            return {"loss": task_loss(self.task, output, call.target)}
        except (TypeError, AttributeError) as error:
            if call.target is not None:
                raise
            raise InvalidInput(
                f"batch {moment.batch} of the train data has no target, and the task's loss needs "
                f"one ({type(error).__name__}: {error}): give labels, or learn from a teacher "
                "instead (burnish.distill)"
            ) from error


def task_loss(task: Task, output: Any, target: Any) -> torch.Tensor:
    """The task's loss, computed in float32 outside autocast.

    Tensors of 16 bits in tuples, lists and dicts are cast up. An output that is any other container
    is handed to the loss as it is, still inside autocast.
    """
    from accelerate.utils import convert_to_fp32, find_device

    assert task.loss is not None
    device = find_device(output)
    if device is None or not torch.is_autocast_enabled(device.type):
        return task.loss(output, target)
    with torch.autocast(device.type, enabled=False):
        return task.loss(convert_to_fp32(output), target)


class Learner(nn.Module):
    """The model and what its objective learns, called together."""

    def __init__(
        self, student: nn.Module, objective: Objective, regularizer: Regularizer | None
    ) -> None:
        super().__init__()
        self.student = student
        self.add_module("extras", objective.modules())
        self._objective = objective
        self._regularizer = regularizer

    def forward(self, call: Call, moment: Moment) -> dict[str, torch.Tensor]:
        """The parts of the loss for one batch, the regularizer's among them."""
        parts = self._objective(self.student, call, moment)
        if not isinstance(parts, Mapping) or not parts:
            raise InvalidInput(
                f"the objective returned a {type(parts).__name__}: give at least one named scalar, "
                'as {"loss": …}'
            )
        if self._regularizer is not None:
            if PENALTY in parts:
                raise InvalidInput(
                    f"the objective calls one of its parts {PENALTY!r}, which is fit's own name "
                    "for fit(regularizer=…): rename it"
                )
            parts = {**parts, PENALTY: self._penalty(self._regularizer, moment)}
        return {name: _scalar(name, part) for name, part in parts.items()}

    def _penalty(self, regularizer: Regularizer, moment: Moment) -> torch.Tensor:
        device = next(self.student.parameters()).device
        if isinstance(regularizer, Growing):
            regularizer = regularizer.at(moment.progress)
        with torch.autocast(device.type, enabled=False):
            return regularizer(self.student)


def _scalar(name: str, part: Any) -> torch.Tensor:
    if not isinstance(part, torch.Tensor) or part.numel() != 1:
        got = list(part.shape) if isinstance(part, torch.Tensor) else type(part).__name__
        raise InvalidInput(
            f"the part {name!r} of the loss is {got}, not a scalar tensor: average it over the "
            "batch"
        )
    return part.reshape(())

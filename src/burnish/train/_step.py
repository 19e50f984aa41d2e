"""`Train`: training as a step, its seven settings one value.

A step that trains changes values, not structure. What it decided is the weights it came to: those
entries of the model's state that changed are its choices' tensors, and `rewrite` loads them. So a
history with a training in it is replayed like any other, without data, and a weight that was not
touched is not stored twice. The plan holds a hash of what the training began from, which the
weights it came to do not tell.

Left out: the training record, which is `fit`'s to give: `Train(...).fit(...)` returns it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from burnish.core import Choices, Rewrite, copied_model, model_hash
from burnish.errors import Damaged, NoEffect
from burnish.goal import Goal, Task
from burnish.train._evaluate import Watch
from burnish.train._fit import fit
from burnish.train._objective import Objective, Regularizer
from burnish.train._plan import Plan, as_schedule
from burnish.train._precision import Precision, as_precision
from burnish.train._record import Fitted
from burnish.train._schedule import Schedule
from burnish.train._tricks import Tricks, as_tricks


@dataclass(frozen=True)
class Train(Rewrite):
    """Train on the task's train data. The settings are those of `fit`, all of them plain JSON.

    Raises:
        InvalidInput: a setting out of range.
    """

    epochs: int
    learning_rate: float
    optimizer: str = "adamw"
    schedule: str | Schedule = "cosine"
    weight_decay: float = 0.01
    precision: str | Precision = "float32"
    tricks: Tricks = field(default_factory=Tricks)

    def __post_init__(self) -> None:
        """Settings out of a history are dicts; each is checked now, not after an hour."""
        schedule, precision = as_schedule(self.schedule), as_precision(self.precision)
        object.__setattr__(self, "schedule", schedule)
        object.__setattr__(self, "precision", precision)
        object.__setattr__(self, "tricks", as_tricks(self.tricks))
        rate, decay = self.learning_rate, self.weight_decay
        Plan(self.epochs, rate, self.optimizer, schedule, decay, precision, self.tricks, 0)

    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        """Train a copy; the entries of its state that changed. NoEffect where none did."""
        return self.choices(model, goal)

    def choices(
        self,
        model: nn.Module,
        goal: Goal,
        objective: Objective | None = None,
        regularizer: Regularizer | None = None,
    ) -> Choices:
        """As `choose`, for a step with an objective or a regularizer of its own."""
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise NoEffect("no parameter of the model takes gradients: there is nothing to train")
        fitted = self.fit(
            model, goal.task, objective=objective, regularizer=regularizer, seed=goal.seed
        )
        last = fitted.record.epochs[-1]
        plan = {
            "from": model_hash(model),
            "epochs": len(fitted.record.epochs),
            "kept": fitted.record.kept,
            "stopped": fitted.record.stopped,
            "loss": sum(last.parts.values()),
            "validation": last.validation,
        }
        return Choices(plan, changed_state(model, fitted.model))

    def rewrite(self, model: nn.Module, choices: Choices) -> nn.Module:
        """A copy with the weights training came to. Damaged where they do not fit the model."""
        return load_state(model, choices.tensors)

    def fit(
        self,
        model: nn.Module,
        task: Task,
        *,
        objective: Objective | None = None,
        regularizer: Regularizer | None = None,
        seed: int = 0,
        checkpoints: Path | None = None,
        watch: Watch | None = None,
    ) -> Fitted:
        """`fit` with these settings."""
        return fit(
            model,
            task,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            optimizer=self.optimizer,
            schedule=self.schedule,
            weight_decay=self.weight_decay,
            precision=self.precision,
            tricks=self.tricks,
            objective=objective,
            regularizer=regularizer,
            seed=seed,
            checkpoints=checkpoints,
            watch=watch,
        )


def changed_state(before: nn.Module, after: nn.Module) -> dict[str, torch.Tensor]:
    """Entries of `after`'s state that differ from `before`'s, on the CPU.

    Raises:
        NoEffect: none does.
    """
    old = before.state_dict()
    changed = {
        name: tensor.detach().cpu()
        for name, tensor in after.state_dict().items()
        if not torch.equal(tensor, old[name])
    }
    if not changed:
        raise NoEffect(
            "training changed no weight: the learning rate is too small for these weights, or the "
            "loss has no gradient"
        )
    return changed


def load_state(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """A deep copy of `model` with some entries of its state replaced.

    Raises:
        Damaged: an entry that the model does not have, or of another shape.
    """
    copied = copied_model(model)
    state = copied.state_dict()
    for name, tensor in tensors.items():
        if name not in state or state[name].shape != tensor.shape:
            has = f"shape {list(state[name].shape)}" if name in state else "nothing of that name"
            raise Damaged(
                f"the history's weight {name!r} has shape {list(tensor.shape)}, and the model has "
                f"{has}: the history belongs to another model"
            )
    copied.load_state_dict({**state, **tensors})
    return copied

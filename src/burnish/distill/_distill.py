"""Distillation: a student learns what a teacher says, with or without labels beside it.

    teacher (frozen copy) ─┐
    batch ─────────────────┤→ signals on outputs and features ─┐
    student ───────────────┘                                   ├→ fit
    labels, where there are any ──→ the task's loss ───────────┘

`distill` puts an objective together (`_objective`) and hands it to `fit`, which does everything
else: precision, schedules, checkpoints, the record. Teacher and student may be anything that is
called alike: the student a smaller network, a pruned or quantized copy of the teacher, a copy with
fresh weights (Furlanello et al., 2018, *Born-again neural networks*), or its own teacher.

`Distill` is the step. A history cannot carry a teacher: it is recorded by the hash of its weights,
and a step read back from a history can be replayed, its weights being kept, but not trained again.

Left out: training the teacher along; a teacher for each stage of the training (call it twice).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

from torch import nn

from burnish.core import Applied, Candidate, Choices, Rewrite, model_hash, settings_of
from burnish.distill._balance import Balanced
from burnish.distill._cache import OutputCache
from burnish.distill._features import FeatureSignal
from burnish.distill._logits import LogitSignal
from burnish.distill._logits_softmax import KD
from burnish.distill._objective import Distillation
from burnish.distill._setting import Setting
from burnish.distill._teachers import Panel, SelfTeacher, Teachers, listed
from burnish.distill._tryout import check_signals, tried
from burnish.errors import InvalidInput
from burnish.goal import Goal, Task
from burnish.train import FitSettings, Fitted, Train, fit, load_state

Signal = LogitSignal | FeatureSignal | Balanced
HINTON: tuple[Signal, ...] = (KD(),)


def distill(
    student: nn.Module,
    teacher: Teachers,
    task: Task,
    signals: Sequence[Signal] = HINTON,
    *,
    labels: Setting | None = 1.0,
    combine: str = "weights",
    cache: Path | None = None,
    **settings: Unpack[FitSettings],
) -> Fitted:
    """Train a copy of `student` on `labels * task.loss + sum of weight * signal`.

    Args:
        student: any module; left as it is.
        teacher: a module called as the student is; several, or `Teacher`s with weights; or a
            `SelfTeacher`. A copy in eval mode and without gradients answers.
        task: its `train` data, and its `loss` where `labels` has a weight.
        signals: what to learn from the teacher; Hinton's by default.
        labels: the weight of the task's loss, a number or a schedule; None to learn from the
            teacher alone. Samples whose target is -100 have no label.
        combine: several teachers: "weights" learns from all, "confidence" for each row from the one
            whose largest probability is highest.
        cache: a folder that keeps the teachers' logits, for all trainings with the same teachers.
        settings: as of `fit`: epochs, learning_rate, precision, …

    Raises:
        InvalidInput: shapes, layers, classes or settings that do not fit; a teacher that answers
            the same call in two ways; labels that are weighted and missing; a stale cache; and as
            `fit`.
        Unsupported: a model that cannot be copied; taps in a traced model.
    """
    objective = make_objective(
        student,
        teacher,
        task,
        signals,
        labels=labels,
        combine=combine,
        cache=cache,
        seed=settings.get("seed", 0),
    )
    with objective:
        return fit(student, task, objective=objective, **settings)


def make_objective(
    student: nn.Module,
    teacher: Teachers,
    task: Task,
    signals: Sequence[Signal],
    *,
    labels: Setting | None,
    combine: str,
    cache: Path | None,
    seed: int,
) -> Distillation:
    """What `distill` hands to `fit`, tried on the example call."""
    panel = Panel(teacher, combine, student)
    check_signals(signals, panel, task, labels, cached=cache is not None)
    parts = tried(student, panel, task, signals, seed)
    kept = None if cache is None else OutputCache(cache, panel.hashes(), task.inputs)
    settings = {
        "teacher": described_teacher(teacher),
        "combine": combine,
        "signals": [described(one) for one in signals],
        "labels": described(labels),
    }
    return Distillation(panel, parts, task, labels=labels, cache=kept, settings=settings)


@dataclass(frozen=True, eq=False)
class Distill(Rewrite):
    """The step: distils into the candidate's model, on the goal's task.

    Args:
        teacher: as of `distill`; in a history, the record of one.
        signals: what to learn from the teacher.
        training: how to train: epochs, learning rate, precision, … (`Train`).
        labels: the weight of the task's loss; None for none.
        combine: several teachers: "weights" or "confidence".
        cache: a folder for the teachers' logits; not part of the history.

    Raises:
        InvalidInput: what is no teacher; a training that is no `Train`.
    """

    teacher: Any
    signals: Sequence[Any] = HINTON
    training: Any = field(kw_only=True)
    labels: Any = 1.0
    combine: str = "weights"
    cache: Path | None = None

    def __post_init__(self) -> None:
        if isinstance(self.teacher, Mapping):
            return  # read from a history
        if not isinstance(self.teacher, SelfTeacher):
            listed(self.teacher)
        if not isinstance(self.training, Train):
            raise InvalidInput(
                f"Distill(training=…) is a {type(self.training).__name__}: give how to train, as "
                "Train(epochs=5, learning_rate=1e-3)"
            )

    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        """Train. The plan holds the record's figures, the tensors what the training changed.

        Raises:
            NoEffect: no weight changed.
            InvalidInput: a step read from a history, whose teacher is not there; and as `distill`.
        """
        if isinstance(self.teacher, Mapping):
            raise InvalidInput(
                "this Distill was read from a history, which holds its trained weights and not its "
                "teacher: replay it, or give it the teacher to train again"
            )
        objective = make_objective(
            model,
            self.teacher,
            goal.task,
            self.signals,
            labels=self.labels,
            combine=self.combine,
            cache=self.cache,
            seed=goal.seed,
        )
        training: Train = self.training
        with objective:
            return training.choices(model, goal, objective)

    def rewrite(self, model: nn.Module, choices: Choices) -> nn.Module:
        """A copy of the model with the trained weights. No teacher is needed."""
        return load_state(model, choices.tensors)

    def apply(self, candidate: Candidate, goal: Goal) -> Candidate:
        """Distil, and write it into the history, the teacher by a hash of its weights."""
        choices = self.choose(candidate.model, goal)
        settings = {
            "teacher": described_teacher(self.teacher),
            "signals": [described(one) for one in self.signals],
            "training": settings_of(self.training),
            "labels": described(self.labels),
            "combine": self.combine,
        }
        model = self.rewrite(candidate.model, choices)
        return candidate.after(model, Applied("Distill", settings, choices))


def described(value: Any) -> Any:
    """A setting as plain JSON: a signal, tap or schedule by its class's name and its fields.

    What JSON cannot hold is written by its name: a function, a signal of another kind of class.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
        return {"type": type(value).__name__, **{k: described(v) for k, v in fields.items()}}
    if isinstance(value, list | tuple):
        return [described(one) for one in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return getattr(value, "__qualname__", type(value).__qualname__)


def described_teacher(teacher: Teachers) -> dict[str, Any]:
    """Whom a student learnt from, as plain JSON: each teacher by a hash of class and weights."""
    if isinstance(teacher, SelfTeacher):
        return {"self": teacher.decay}
    return {
        "teachers": [
            {"model": model_hash(one.model), "weight": one.weight} for one in listed(teacher)
        ]
    }

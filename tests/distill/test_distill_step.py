"""The step: what every step owes, and a history that holds the teacher by its hash."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from burnish.core import Candidate, Step, model_hash
from burnish.distill import KD, Balanced, Distill, Hint, LogitMSE, SelfTeacher, Tap
from burnish.errors import InvalidInput, NoEffect
from burnish.goal import Goal
from burnish.recipe import load_history, replay, save_history
from burnish.testing import StepContract, Tiny, catalogue
from burnish.train import Schedule, Train
from tests.distill.small import same_state, state, student, task, teacher

TRIED = ("lstm", "residual_projection", "two_inputs")
TRAINING = Train(epochs=2, learning_rate=0.01)


class TestDistill(StepContract):
    def step(self) -> Step:
        signals = (LogitMSE(Schedule("linear")),)
        return Distill(SelfTeacher(0.9), signals, training=Train(epochs=1, learning_rate=1e-3))

    def tinies(self) -> Iterable[Tiny]:
        """Training takes time: three that differ in what they hold and in how they are called."""
        return [one for one in catalogue() if one.name in TRIED]


def test_it_distils_into_the_candidate_and_names_the_teacher() -> None:
    step = Distill(
        teacher(),
        (KD(4.0, Schedule("linear", 1.0, 0.0)), Balanced(Hint(Tap("0")))),
        training=TRAINING,
        labels=0.5,
    )
    before = Candidate(student())
    after = step.apply(before, Goal(task()))
    (entry,) = after.history
    settings = json.loads(json.dumps(entry.settings))
    assert settings["teacher"] == {"teachers": [{"model": model_hash(teacher()), "weight": 1.0}]}
    kd, balanced = settings["signals"]
    assert (kd["type"], kd["temperature"]) == ("KD", 4.0)
    assert (kd["weight"]["type"], kd["weight"]["end"]) == ("Schedule", 0.0)
    assert (balanced["type"], balanced["signal"]["tap"]["student"]) == ("Balanced", "0")
    assert settings["labels"] == 0.5
    assert not same_state(state(before.model), state(after.model))


def test_its_weights_are_replayed_without_the_teacher(tmp_path: Path) -> None:
    after = Distill(teacher(), training=TRAINING).apply(Candidate(student()), Goal(task()))
    save_history(tmp_path, after.history)
    again = replay(student(), load_history(tmp_path), {"Distill": Distill})
    assert same_state(state(after.model), state(again))


def test_a_step_read_from_a_history_is_not_trained_again() -> None:
    after = Distill(teacher(), training=TRAINING).apply(Candidate(student()), Goal(task()))
    read = Distill(**after.history[0].settings)
    with pytest.raises(InvalidInput, match="was read from a history"):
        read.apply(Candidate(student()), Goal(task()))


def test_what_is_no_teacher_or_no_training() -> None:
    with pytest.raises(InvalidInput, match="training=…"):
        Distill(teacher(), training={"epochs": 3})
    with pytest.raises(InvalidInput, match="teacher is a str"):
        Distill("resnet56", training=TRAINING)


def test_no_effect_where_nothing_changed() -> None:
    """A student that is its teacher already has nothing to learn from it."""
    same = student()
    on = task(train=[x for x, _ in task().train], loss=None)  # type: ignore[union-attr]
    step = Distill(
        same,
        (LogitMSE(),),
        training=Train(epochs=1, learning_rate=0.01, optimizer="sgd", weight_decay=0.0),
        labels=None,
    )
    with torch.random.fork_rng(devices=[]), pytest.raises(NoEffect):
        step.apply(Candidate(same), Goal(on))

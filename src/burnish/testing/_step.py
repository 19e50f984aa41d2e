"""What every step owes: a class to inherit, as optuna publishes one for samplers.

    class TestMyStep(StepContract):
        def step(self):
            return MyStep(amount=0.3)

Each test runs over the catalogue. A step is applied once to each model, with everything recorded
before and after, and once more to see whether it repeats itself. pytest collects the classes by its
own hook; nothing here imports it.

Left out: whether the step is any good. That is measured, not promised.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from unittest import SkipTest

import torch
from torch import nn

from burnish.core import Applied, Candidate, Step
from burnish.errors import NoEffect
from burnish.goal import Goal, Inputs, Measurement
from burnish.testing._catalogue import catalogue
from burnish.testing._fingerprint import (
    data_fingerprint,
    differences,
    fingerprint,
    same_outputs,
)
from burnish.testing._tiny import Tiny

KNOWN = Measurement("latency", 1.0, "ms", 0.9, 1.1, 10, "cpu", "none")
SPLITS = ("calibration", "train", "validation", "test")
WITHOUT_WEIGHTS = Tiny(
    "without_weights",
    lambda: nn.Flatten(),
    lambda generator, sizes: Inputs(torch.randn(sizes["batch"], 2, 3, generator=generator)),
    frozenset({"without_weights"}),
)


class StepContract(ABC):
    """Inherit, give `step`, and pytest runs the rest."""

    @abstractmethod
    def step(self) -> Step:
        """The step under test; made anew each time, with the same settings."""

    def tinies(self) -> Iterable[Tiny]:
        """The models to try: the whole catalogue."""
        return catalogue()

    def candidate(self, tiny: Tiny) -> Candidate:
        """What the step is applied to: override where it takes a traced model."""
        return Candidate(tiny.build())

    def goal(self, tiny: Tiny) -> Goal:
        """What the step is applied for."""
        return tiny.goal()

    def untouchable(self) -> Tiny:
        """A model on which the step can do nothing: by default one that only reshapes."""
        return WITHOUT_WEIGHTS

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """pytest's own hook: one test for each model."""
        if "tiny" in metafunc.fixturenames:
            metafunc.parametrize("tiny", list(self.tinies()), ids=str)

    def test_does_something(self) -> None:
        """On at least one model; else all that follows would hold of nothing."""
        reasons = [str(trial(type(self), tiny).refusal) for tiny in self.tinies()]
        assert any(reason == "None" for reason in reasons), f"NoEffect on every model: {reasons[0]}"

    def test_leaves_its_input_alone(self, tiny: Tiny) -> None:
        """Weights, flags, graph, history and data are as before, whether or not it had effect."""
        changed = trial(type(self), tiny).changed
        assert not changed, f"apply() changed its input: {changed}"

    def test_writes_its_history(self, tiny: Tiny) -> None:
        """What was there stays, and at least one entry is added; settings and plan are JSON."""
        tried = effective(type(self), tiny)
        old, new = tried.before.history, tried.result.history
        assert new[: len(old)] == old, "the history before the step was not kept"
        assert len(new) == len(old) + self.num_entries(), (
            f"the history grew by {len(new) - len(old)} entries, not by {self.num_entries()}"
        )
        for entry in new[len(old) :]:
            _check_entry(entry)

    def num_entries(self) -> int:
        """How many entries the step writes: one, unless it is made of several steps."""
        return 1

    def test_forgets_measurements(self, tiny: Tiny) -> None:
        """They described the model before the step."""
        tried = effective(type(self), tiny)
        assert tried.result.measurements == (), "measurements of the old model were kept"

    def test_changes_the_model(self, tiny: Tiny) -> None:
        """A step that changed nothing raises NoEffect and says why."""
        tried = effective(type(self), tiny)
        same = not differences(fingerprint(tried.before.model), fingerprint(tried.result.model))
        assert not same, "nothing was changed, and NoEffect was not raised"

    def test_says_so_where_it_can_do_nothing(self) -> None:
        """On a model without anything to work on: NoEffect, with a reason."""
        tiny = self.untouchable()
        try:
            self.step().apply(self.candidate(tiny), self.goal(tiny))
        except NoEffect as refusal:
            assert str(refusal).strip(), "NoEffect was raised without a reason"
        else:
            raise AssertionError(f"no NoEffect on {tiny}, where nothing can be done")

    def test_repeats_itself(self, tiny: Tiny) -> None:
        """Same model, same goal: same history, same outputs, whatever torch's generator holds."""
        tried = effective(type(self), tiny)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(987)
            again = self.step().apply(_prepared(self, tiny), self.goal(tiny))
        assert again.key() == tried.result.key(), "another history the second time"
        inputs = tiny.inputs(3, seed=7)
        same = same_outputs(tiny.call(again.model, inputs), tiny.call(tried.result.model, inputs))
        assert same, "other outputs the second time"


@dataclass(frozen=True)
class Trial:
    """One application: what went in, what of it was changed, and what came out or why not."""

    before: Candidate
    changed: str
    after: Candidate | None
    refusal: NoEffect | None

    @property
    def result(self) -> Candidate:
        """The new candidate, where there is one."""
        assert self.after is not None
        return self.after


@lru_cache(maxsize=32)
def trial(contract: type[StepContract], tiny: Tiny) -> Trial:
    """Apply a contract's step to a model, once for all tests of the contract."""
    giver = contract()
    candidate, goal = _prepared(giver, tiny), giver.goal(tiny)
    history, measurements = candidate.history, candidate.measurements
    model, data = fingerprint(candidate.model), _data(goal)
    after, refusal = None, None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        try:
            after = giver.step().apply(candidate, goal)
        except NoEffect as error:
            refusal = error
    changed = differences(model, fingerprint(candidate.model))
    if data != _data(goal):
        changed = f"{changed}, the goal's data".strip(", ")
    if candidate.history != history or candidate.measurements != measurements:
        changed = f"{changed}, the candidate's history".strip(", ")
    return Trial(candidate, changed, after, refusal)


def _prepared(contract: StepContract, tiny: Tiny) -> Candidate:
    return contract.candidate(tiny).measured(KNOWN)


def _data(goal: Goal) -> list[list[str]]:
    return [data_fingerprint(getattr(goal.task, split)) for split in SPLITS]


def effective(contract: type[StepContract], tiny: Tiny) -> Trial:
    tried = trial(contract, tiny)
    if tried.refusal is not None:
        raise SkipTest(f"NoEffect on {tiny}: {tried.refusal}")
    return tried


def _check_entry(entry: Applied) -> None:
    assert entry.step.isidentifier(), f"{entry.step!r} is no name of a step"
    data = entry.to_json()
    try:
        back = json.loads(json.dumps(data, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{entry.step} cannot be written as JSON: {error}") from error
    for part in ("settings", "choices"):
        assert back[part] == data[part], f"{part} of {entry.step} are not plain JSON: {data[part]}"

"""The step contracts pass a good step and fail each broken one, by the test meant for it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any
from unittest import SkipTest

import pytest
import torch
from torch import nn

from burnish.core import Applied, Candidate, Choices, Rewrite
from burnish.errors import NoEffect
from burnish.goal import Goal, Measurement
from burnish.testing import RewriteContract, StepContract, Tiny, catalogue

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
FEW = tuple(t for t in catalogue() if t.name in ("shared_module", "tied_weights", "lstm"))


@dataclass(frozen=True)
class Round(Rewrite):
    """Rounds weights to `levels` levels a side; the rounded weights are its tensors."""

    levels: int = 8

    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        scales, tensors = {}, {}
        for name, module in model.named_modules():
            if isinstance(module, WEIGHTED):
                scales[name] = float(module.weight.detach().abs().max()) / self.levels
                tensors[name] = self._rounded(module.weight.detach(), scales[name])
        if not scales:
            raise NoEffect("Round found no linear layer or convolution")
        return Choices(scales, tensors)

    def _rounded(self, weight: torch.Tensor, scale: float) -> torch.Tensor:
        return (weight / scale).round() * scale

    def rewrite(self, model: nn.Module, choices: Choices) -> nn.Module:
        return self._write(copy.deepcopy(model), choices)

    def _write(self, model: nn.Module, choices: Choices) -> nn.Module:
        for name, weight in choices.tensors.items():
            model.get_submodule(name).get_parameter("weight").data.copy_(weight)
        return model


class TestRound(RewriteContract):
    def step(self) -> Round:
        return Round()

    def tinies(self) -> Iterable[Tiny]:
        return catalogue()[::3]


class TestTwiceRound(StepContract):
    """A chain is a step too; it writes two entries."""

    def step(self) -> Any:
        return Round(8) >> Round(4)

    def tinies(self) -> Iterable[Tiny]:
        return FEW

    def num_entries(self) -> int:
        return 2


class InPlace(Round):
    def rewrite(self, model: nn.Module, choices: Choices) -> nn.Module:
        return self._write(model, choices)


class SharingStorage(Round):
    """Copies the modules and not the tensors, as an exported program does."""

    def rewrite(self, model: nn.Module, choices: Choices) -> nn.Module:
        memo = {id(t): t for t in (*model.parameters(), *model.buffers())}
        return self._write(copy.deepcopy(model, memo), choices)


class LeavesTraining(Round):
    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        model.train()
        return super().choose(model, goal)


class SpoilsData(Round):
    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        for call in goal.task.calls("calibration"):
            call.target.add_(1)
        return super().choose(model, goal)


class RandomRewrite(Round):
    def rewrite(self, model: nn.Module, choices: Choices) -> nn.Module:
        new = super().rewrite(model, choices)
        first = next(new.parameters())
        first.data += 1e-6 * torch.rand_like(first)
        return new


class RandomChoice(Round):
    def _rounded(self, weight: torch.Tensor, scale: float) -> torch.Tensor:
        return super()._rounded(weight + torch.rand_like(weight), scale)


class Silent(Round):
    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        return Choices({"": 0.0})


class NeverAnything(Round):
    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        raise NoEffect("not today")


class Mute(Round):
    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        try:
            return super().choose(model, goal)
        except NoEffect:
            raise NoEffect from None


class ReadsSomethingElse(Round):
    """Its rewrite depends on what is not in the choices: how often it was called."""

    calls = 0

    def rewrite(self, model: nn.Module, choices: Choices) -> nn.Module:
        ReadsSomethingElse.calls += 1
        shifted = {n: t + 1e-3 * ReadsSomethingElse.calls for n, t in choices.tensors.items()}
        return self._write(copy.deepcopy(model), replace(choices, tensors=shifted))


class KeepsObjects(Round):
    """A plan with integers for keys comes back from JSON with strings."""

    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        choices = super().choose(model, goal)
        plan: dict[Any, Any] = dict(enumerate(choices.plan.values()))
        return replace(choices, plan=plan)


class NamesNodes(Round):
    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        choices = super().choose(model, goal)
        return replace(choices, plan={f"node_{name}": s for name, s in choices.plan.items()})


class OnlyDigits(Round):
    """Relies on being handed the very plan it made, which a file does not give back."""

    def rewrite(self, model: nn.Module, choices: Choices) -> nn.Module:
        new = super().rewrite(model, choices)
        if not isinstance(choices.plan, _Plan):
            next(new.parameters()).data.zero_()
        return new

    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        choices = super().choose(model, goal)
        return replace(choices, plan=_Plan(choices.plan))


class _Plan(dict[str, Any]):
    """A dict of its own kind."""


@dataclass(frozen=True)
class Rewritten(Round):
    """Overrides how history is written, wrongly, as `fault` says."""

    fault: str = ""

    def apply(self, candidate: Candidate, goal: Goal) -> Candidate:
        new = super().apply(candidate, goal)
        entry = new.history[-1]
        if self.fault == "keeps measurements":
            return replace(new, measurements=candidate.measurements)
        if self.fault == "no entry":
            return replace(new, history=candidate.history)
        if self.fault == "two entries":
            return replace(new, history=(*new.history, entry))
        if self.fault == "rewrites the past":
            return replace(new, history=new.history[-1:])
        settings: dict[str, dict[str, Any]] = {
            "objects": {"dtype": torch.int8},
            "NaN": {"x": float("nan")},
            "tuple": {"x": (1,)},
        }
        return replace(
            new, history=(*candidate.history, Applied("R", settings[self.fault], entry.choices))
        )


def contract(step: Any, base: type[StepContract] = RewriteContract) -> StepContract:
    """A contract class for a step, over a few models."""
    made = type("Made", (base,), {"step": lambda self: step, "tinies": lambda self: FEW})
    one: StepContract = made()
    return one


def outcome(one: StepContract, test: str) -> None:
    """Run one test of a contract over all its models, as pytest would."""
    method = getattr(one, test)
    if "tiny" not in inspect.signature(method).parameters:
        method()
        return
    skipped = []
    for tiny in one.tinies():
        try:
            method(tiny)
        except SkipTest as error:
            skipped.append(str(error))
    assert len(skipped) < len(FEW), skipped


TESTS = [name for name in dir(RewriteContract) if name.startswith("test_")]


@pytest.mark.parametrize("test", TESTS)
def test_a_good_rewrite_passes(test: str) -> None:
    outcome(contract(Round()), test)


@pytest.mark.parametrize(
    ("step", "test", "words"),
    [
        (InPlace(), "test_leaves_its_input_alone", "changed its input: tensor "),
        (InPlace(), "test_rewrites_without_touching_the_model", "changed its input: tensor "),
        (SharingStorage(), "test_leaves_its_input_alone", "changed its input: tensor "),
        (LeavesTraining(), "test_leaves_its_input_alone", "training flag of the model"),
        (SpoilsData(), "test_leaves_its_input_alone", "the goal's data"),
        (RandomRewrite(), "test_rewrites_alike", "the model differs: tensor "),
        (RandomRewrite(), "test_replays_on_a_fresh_model", "the model differs: tensor "),
        (RandomRewrite(), "test_repeats_itself", "other outputs"),
        (RandomChoice(), "test_repeats_itself", "another history"),
        (Silent(), "test_changes_the_model", "NoEffect was not raised"),
        (Silent(), "test_says_so_where_it_can_do_nothing", "no NoEffect on without_weights"),
        (NeverAnything(), "test_does_something", "not today"),
        (Mute(), "test_says_so_where_it_can_do_nothing", "without a reason"),
        (ReadsSomethingElse(), "test_rewrites_alike", "the model differs"),
        (KeepsObjects(), "test_writes_its_history", "choices of KeepsObjects are not plain JSON"),
        (KeepsObjects(), "test_replays_from_a_file", "changed on their way"),
        (NamesNodes(), "test_plan_names_what_is_there", "does not have: .*node_"),
        (OnlyDigits(), "test_replays_from_a_file", "the model differs"),
        (Rewritten(fault="keeps measurements"), "test_forgets_measurements", "were kept"),
        (Rewritten(fault="no entry"), "test_writes_its_history", "grew by 0 entries"),
        (Rewritten(fault="two entries"), "test_writes_its_history", "grew by 2 entries"),
        (Rewritten(fault="objects"), "test_writes_its_history", "cannot be written as JSON"),
        (Rewritten(fault="NaN"), "test_writes_its_history", "cannot be written as JSON"),
        (Rewritten(fault="tuple"), "test_writes_its_history", "settings of R are not plain JSON"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Rewrite) else "",
)
def test_a_broken_step_fails(step: Round, test: str, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        outcome(contract(step), test)


def test_a_step_that_drops_the_past_fails() -> None:
    class WithPast(StepContract):
        def step(self) -> Round:
            return Rewritten(fault="rewrites the past")

        def candidate(self, tiny: Tiny) -> Candidate:
            return Round(100).apply(Candidate(tiny.build()), self.goal(tiny))

    with pytest.raises(AssertionError, match="was not kept"):
        WithPast().test_writes_its_history(FEW[0])


def test_a_plan_without_names_fails() -> None:
    class Nameless(RewriteContract):
        def step(self) -> Round:
            return Round()

        def names_in(self, choices: Choices) -> list[str]:
            return []

    with pytest.raises(AssertionError, match="the plan names nothing"):
        Nameless().test_plan_names_what_is_there(FEW[0])


def test_a_model_without_effect_is_skipped_with_the_reason() -> None:
    with pytest.raises(SkipTest, match="NoEffect on tied_weights: not today"):
        contract(NeverAnything()).test_repeats_itself(FEW[0])


def test_the_candidate_given_knows_something() -> None:
    """Else forgetting it would be no feat."""
    step = Round()
    seen: list[tuple[Measurement, ...]] = []

    class Watching(StepContract):
        def step(self) -> Any:
            return self

        def apply(self, candidate: Candidate, goal: Goal) -> Candidate:
            seen.append(candidate.measurements)
            return step.apply(candidate, goal)

    Watching().test_forgets_measurements(FEW[0])
    assert len(seen[0]) == 1

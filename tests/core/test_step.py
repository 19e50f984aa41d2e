"""Rewrites and chains, on a toy that scales a linear layer."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import pytest
import torch
from torch import nn

from burnish.core import Candidate, Chain, Choices, Rewrite, Step, settings_of
from burnish.errors import NoEffect
from burnish.goal import Goal, Measurement, Task
from burnish.metrics import top1

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Scale(Rewrite):
    """Multiplies the weight so that its largest entry is `peak`."""

    peak: float = 1.0
    only: tuple[str, ...] = ()

    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        assert isinstance(model, nn.Linear)
        if model.weight.abs().max().item() == self.peak:
            raise NoEffect("already so")
        factor = self.peak / model.weight.detach().abs().max()
        return Choices({"seed": goal.seed}, {"factor": factor})

    def rewrite(self, model: nn.Module, choices: Choices) -> nn.Module:
        new = copy.deepcopy(model)
        assert isinstance(new, nn.Linear)
        with torch.no_grad():
            new.weight.mul_(choices.tensors["factor"])
        return new


@dataclass(frozen=True)
class Count:
    """A step that is no rewrite."""

    def apply(self, candidate: Candidate, goal: Goal) -> Candidate:
        return candidate.measured(
            Measurement("count", len(candidate.history), "1", 0, 0, 1, "cpu", "here")
        )


@pytest.fixture
def candidate() -> Candidate:
    torch.manual_seed(1)
    return Candidate(nn.Linear(3, 2)).measured(Measurement("m", 0, "1", 0, 0, 1, "cpu", "here"))


@pytest.fixture
def goal() -> Goal:
    return Goal(Task(X, top1), seed=5)


def test_apply_writes_what_was_decided_and_leaves_its_input(
    candidate: Candidate, goal: Goal
) -> None:
    before = copy.deepcopy(candidate.model.state_dict())
    after = Scale(2.0, ("a",)).apply(candidate, goal)
    (applied,) = after.history
    assert (applied.step, applied.settings) == ("Scale", {"peak": 2.0, "only": ["a"]})
    assert applied.choices.plan == {"seed": 5}
    assert after.measurements == ()
    assert after.model is not candidate.model
    assert isinstance(after.model, nn.Linear)
    torch.testing.assert_close(after.model.weight.detach().abs().max(), torch.tensor(2.0))
    assert candidate.history == ()
    assert len(candidate.measurements) == 1
    for name, tensor in candidate.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_replaying_the_choices_gives_the_same_model(candidate: Candidate, goal: Goal) -> None:
    after = (Scale(2.0) >> Scale(0.5)).apply(candidate, goal)
    replayed = candidate.model
    for applied in after.history:
        replayed = Scale().rewrite(replayed, applied.choices)
    assert torch.equal(replayed(X), after.model(X))


def test_a_chain_applies_in_order(candidate: Candidate, goal: Goal) -> None:
    chain = Scale(2.0) >> Scale(3.0) >> Count()
    after = chain.apply(candidate, goal)
    assert [applied.settings["peak"] for applied in after.history] == [2.0, 3.0]
    assert [measurement.value for measurement in after.measurements] == [2]


def test_chains_are_flat_however_they_are_bracketed() -> None:
    a, b, c = Scale(1.0), Scale(2.0), Count()
    assert (a >> b) >> c == a >> (b >> c) == Chain((a, b, c))
    assert Chain((a,)) >> Chain((b, c)) == Chain((a, b, c))


def test_an_empty_chain_changes_nothing(candidate: Candidate, goal: Goal) -> None:
    assert Chain(()).apply(candidate, goal) is candidate


def test_what_a_step_refuses_goes_through_the_chain(candidate: Candidate, goal: Goal) -> None:
    scaled = Scale(2.0).apply(candidate, goal)
    assert isinstance(scaled.model, nn.Linear)
    peak = scaled.model.weight.detach().abs().max().item()
    with pytest.raises(NoEffect, match="already so"):
        Chain((Count(), Scale(peak))).apply(scaled, goal)


def test_steps_are_known_by_their_interface() -> None:
    assert isinstance(Scale(), Step)
    assert isinstance(Count(), Step)
    assert isinstance(Chain(()), Step)
    assert not isinstance(object(), Step)


def test_a_rewrite_needs_both_halves() -> None:
    class Half(Rewrite):
        def choose(self, model: nn.Module, goal: Goal) -> Choices:
            return Choices()

    with pytest.raises(TypeError, match="rewrite"):
        Half()  # type: ignore[abstract]


@dataclass(frozen=True)
class Inner:
    bits: int = 8
    names: frozenset[str] = frozenset({"b", "a"})


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    several: tuple[Inner, ...] = (Inner(4),)
    table: Mapping[str, Inner] = field(default_factory=lambda: MappingProxyType({"x": Inner(2)}))
    pairs: tuple[tuple[str, float], ...] = (("a", 1.0),)
    nothing: None = None


def test_settings_of_nested_dataclasses_are_plain_json() -> None:
    settings = settings_of(Outer())
    assert settings == {
        "inner": {"bits": 8, "names": ["a", "b"]},
        "several": [{"bits": 4, "names": ["a", "b"]}],
        "table": {"x": {"bits": 2, "names": ["a", "b"]}},
        "pairs": [["a", 1.0]],
        "nothing": None,
    }
    assert json.loads(json.dumps(settings)) == settings
    assert list(settings) == [f.name for f in dataclasses.fields(Outer)]

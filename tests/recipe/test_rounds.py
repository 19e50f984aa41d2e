"""Rounds: what each is to remove, what it does where channels are whole, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from burnish.core import Candidate, Chain, Choices, Rewrite
from burnish.errors import InvalidInput, NoEffect
from burnish.goal import Goal
from burnish.recipe import gradual, repeat

GOAL = cast(Goal, None)  # no step here asks for it


@dataclass(frozen=True)
class Cut(Rewrite):
    """Takes a share of a layer's outputs away, in whole outputs."""

    share: float

    def part(self, before: float, after: float) -> Cut:
        return replace(self, share=1 - (1 - after) / (1 - before))

    def reached(self, before: float, choices: Choices) -> float:
        return 1 - (1 - before) * (1 - float(choices.plan["share"]))

    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        assert isinstance(model, nn.Linear)
        num = round(self.share * model.out_features)
        if not num:
            raise NoEffect("no output goes")
        return Choices({"left": model.out_features - num, "share": num / model.out_features})

    def rewrite(self, model: nn.Module, choices: Choices) -> nn.Module:
        return nn.Linear(1, choices.plan["left"])


@dataclass(frozen=True)
class Heal(Rewrite):
    """Does something."""

    by: float = 1.0

    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        return Choices({}, {"bias": torch.full((cast(Any, model).out_features,), self.by)})

    def rewrite(self, model: nn.Module, choices: Choices) -> nn.Module:
        return model


def _steps(candidate: Candidate) -> list[str]:
    return [applied.step for applied in candidate.history]


SHARES: dict[str, tuple[float, ...]] = {  # by hand, of 0.8 in four rounds
    "cubic": (0.8 * 37 / 64, 0.8 * 56 / 64, 0.8 * 63 / 64, 0.8),
    "linear": (0.2, 0.4, 0.6, 0.8),
    "geometric": (1 - 0.2**0.25, 1 - 0.2**0.5, 1 - 0.2**0.75, 0.8),
}


@pytest.mark.parametrize("schedule", SHARES)
def test_what_is_to_be_gone_after_each_round(schedule: str) -> None:
    found = gradual(Cut(0.8), recover=Heal(), rounds=4, schedule=schedule).shares
    assert found == pytest.approx(SHARES[schedule], abs=1e-12)


@given(
    schedule=st.sampled_from(sorted(SHARES)),
    rounds=st.integers(1, 12),
    start=st.floats(0, 0.9),
    more=st.floats(0.01, 0.99),
)
def test_every_schedule_goes_up_and_ends_at_the_share(
    schedule: str, rounds: int, start: float, more: float
) -> None:
    share = start + (1 - start) * more
    made = gradual(Cut(share), recover=Heal(), rounds=rounds, schedule=schedule, start=start)
    whole = (start, *made.shares)
    assert len(made.shares) == rounds
    assert made.shares[-1] == share
    assert all(before < after for before, after in pairwise(whole[:-1]))
    assert whole[-2] <= share + 1e-12
    if schedule == "geometric":
        taken = [1 - (1 - b) / (1 - a) for a, b in pairwise(whole)]
        assert taken == pytest.approx([taken[0]] * rounds, abs=1e-9)


@pytest.mark.parametrize("outputs", [7, 16, 50, 333])
def test_rounds_end_where_one_shot_would(outputs: int) -> None:
    """Outputs are whole in each round, and the differences do not add up."""
    for schedule in SHARES:
        step = gradual(Cut(0.8), recover=Heal(), rounds=4, schedule=schedule)
        left = cast(Any, step.apply(Candidate(nn.Linear(1, outputs)), GOAL).model).out_features
        assert abs(left - 0.2 * outputs) <= 1


def test_a_round_recovers_after_it_removed() -> None:
    step = gradual(Cut(0.5), recover=Heal(1.0) >> Heal(2.0), rounds=2, schedule="linear")
    history = step.apply(Candidate(nn.Linear(1, 8)), GOAL).history
    assert [applied.step for applied in history] == ["Cut", "Heal", "Heal"] * 2
    assert [applied.settings["by"] for applied in history if applied.step == "Heal"] == [1, 2] * 2
    shares = [applied.settings["share"] for applied in history if applied.step == "Cut"]
    assert shares == pytest.approx([1 / 4, 1 / 3])


def test_what_is_less_than_a_channel_waits_for_the_next_round() -> None:
    """Of ten outputs a twelfth part at a time: rounds without one only recover."""
    step = gradual(Cut(0.5), recover=Heal(), rounds=9, schedule="linear")
    candidate = step.apply(Candidate(nn.Linear(1, 10)), GOAL)
    names = _steps(candidate)
    assert names.count("Heal") == 9
    assert names.count("Cut") == 5
    assert cast(Any, candidate.model).out_features == 5


def test_a_first_round_without_effect_is_told_at_once() -> None:
    step = gradual(Cut(0.5), recover=Heal(), rounds=20, schedule="linear")
    with pytest.raises(NoEffect, match=r"first of 20 rounds, from 0 to 0\.025, removes nothing"):
        step.apply(Candidate(nn.Linear(1, 10)), GOAL)


def test_rounds_begin_with_what_is_gone_already() -> None:
    step = gradual(Cut(0.75), recover=Heal(), rounds=1, start=0.5)
    assert cast(Any, step.apply(Candidate(nn.Linear(1, 8)), GOAL).model).out_features == 4


def test_rounds_are_steps_of_a_chain() -> None:
    chain = Heal() >> gradual(Cut(0.5), recover=Heal(), rounds=1) >> Heal()
    assert _steps(chain.apply(Candidate(nn.Linear(1, 4)), GOAL)) == ["Heal", "Cut", "Heal", "Heal"]
    after = gradual(Cut(0.5), recover=Heal(), rounds=1) >> Heal()
    assert _steps(after.apply(Candidate(nn.Linear(1, 4)), GOAL)) == ["Cut", "Heal", "Heal"]


def test_repeat_is_the_chain_written_out() -> None:
    assert repeat(Cut(0.5) >> Heal(), 2) == Chain((Cut(0.5), Heal(), Cut(0.5), Heal()))
    assert repeat(Cut(0.5), 1) == Chain((Cut(0.5),))
    candidate = repeat(Cut(0.5), 3).apply(Candidate(nn.Linear(1, 16)), GOAL)
    assert cast(Any, candidate.model).out_features == 2


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no rounds": ({"rounds": 0}, r"gradual\(rounds=0\): a whole number, at least 1"),
    "half a round": ({"rounds": 1.5}, "a whole number, at least 1"),
    "schedule": ({"schedule": "quartic"}, "one of cubic, linear, geometric"),
    "start": ({"start": 0.5}, "up to, not including, the 0.5 that shall be gone"),
    "negative start": ({"start": -0.1}, "what is gone already, from 0"),
    "recover": ({"recover": None}, "give a step, as Train"),
    "step": ({"step": Heal()}, r"was given a Heal: repeat\(step, times\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_out_of_range_are_refused(name: str) -> None:
    settings, message = REFUSED[name]
    given: dict[str, Any] = {"step": Cut(0.5), "recover": Heal(), **settings}
    with pytest.raises(InvalidInput, match=message):
        gradual(given.pop("step"), **given)


def test_repeat_refuses_what_is_no_step_and_no_number() -> None:
    with pytest.raises(InvalidInput, match=r"repeat\(times=0\): a whole number, at least 1"):
        repeat(Heal(), 0)
    with pytest.raises(InvalidInput, match="takes a step or a chain, not a function"):
        repeat(cast(Any, lambda: None), 2)

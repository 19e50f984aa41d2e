"""Schedules: their values against the formulas, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from burnish.errors import InvalidInput
from burnish.train import Schedule, fit
from tests.train.small import BATCHES, network, task


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        (Schedule("constant", 4.0), [4.0, 4.0, 4.0, 4.0, 4.0]),
        (Schedule("linear", 4.0, 1.0), [4.0, 3.25, 2.5, 1.75, 1.0]),
        (Schedule("cosine"), [1.0, 0.8535534, 0.5, 0.1464466, 0.0]),
        (Schedule("cosine", 2.0, 1.0), [2.0, 1.8535534, 1.5, 1.1464466, 1.0]),
        (Schedule("one_cycle"), [0.04, 0.84, 0.8117449, 0.2830581, 0.0]),
        (Schedule("linear", warm_up=0.5), [0.0, 0.5, 1.0, 0.5, 0.0]),
        (Schedule("constant", 3.0, warm_up=0.25), [0.0, 3.0, 3.0, 3.0, 3.0]),
    ],
    ids=str,
)
def test_values(schedule: Schedule, wanted: list[float]) -> None:
    """At 0, 1/4, 1/2, 3/4 and 1."""
    assert [schedule.at(i / 4) for i in range(5)] == pytest.approx(wanted, abs=1e-6)


@given(
    st.sampled_from(["constant", "linear", "cosine", "one_cycle"]),
    st.floats(-10, 10),
    st.floats(-10, 10),
    st.floats(0, 1),
)
def test_it_stays_between_its_ends(kind: str, start: float, end: float, progress: float) -> None:
    schedule = Schedule(kind, start, start if kind == "constant" else end)
    low, high = sorted([start, schedule.end])
    assert low - 1e-9 <= schedule.at(progress) <= high + 1e-9


def test_it_reaches_its_ends_exactly() -> None:
    for kind in ("constant", "linear", "cosine"):
        assert Schedule(kind, 0.3).at(0.0) == 0.3
    for kind in ("linear", "cosine"):
        assert Schedule(kind, 0.3, 0.1).at(1.0) == pytest.approx(0.1, abs=1e-15)


@pytest.mark.parametrize("progress", [-0.01, 1.01, float("nan")])
def test_beyond_its_length_is_refused(progress: float) -> None:
    with pytest.raises(InvalidInput, match="it begins at 0 and is over at 1"):
        Schedule("linear").at(progress)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "exponential"}, "one of constant, cosine, linear, one_cycle"),
        ({"start": float("inf")}, "start=inf"),
        ({"end": float("nan")}, "end=nan"),
        ({"warm_up": 1.0}, "0 or more and below 1"),
        ({"warm_up": -0.1}, "0 or more and below 1"),
        ({"kind": "one_cycle", "warm_up": 0.1}, "a one-cycle climbs by itself"),
        ({"kind": "constant", "start": 2.0, "end": 1.0}, "a constant has no other end"),
    ],
)
def test_what_is_no_schedule_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        Schedule(**settings)


def rates(monkeypatch: pytest.MonkeyPatch, schedule: Any) -> list[float]:
    """The learning rate at each of four steps, as SGD saw it."""
    seen: list[float] = []
    step = torch.optim.SGD.step

    def spy(self: Any, closure: Any = None) -> Any:
        seen.append(self.param_groups[0]["lr"])
        return step(self, closure)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    fitted = fit(
        network(),
        task(train=BATCHES[:2]),
        epochs=2,
        learning_rate=0.1,
        optimizer="sgd",
        schedule=schedule,
    )
    assert [epoch.learning_rate for epoch in fitted.record.epochs] == [
        (seen[0], seen[1]),
        (seen[2], seen[3]),
    ]
    return seen


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        ("constant", [0.1] * 4),
        ("cosine", [0.1, 0.0853553, 0.05, 0.0146447]),
        ("one_cycle", [0.004, 0.084, 0.0811745, 0.0283058]),
        (Schedule("cosine", warm_up=0.5), [0.0, 0.05, 0.1, 0.05]),
        (Schedule("linear", 1.0, 0.5), [0.1, 0.0875, 0.075, 0.0625]),
    ],
)
def test_the_learning_rate_follows_it(
    monkeypatch: pytest.MonkeyPatch, schedule: Any, wanted: list[float]
) -> None:
    assert rates(monkeypatch, schedule) == pytest.approx(wanted, abs=1e-6)


def test_torch_s_schedulers_are_stepped_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def halving(optimizer: Any, steps: int) -> Any:
        assert steps == 4
        return torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)

    assert rates(monkeypatch, halving) == pytest.approx([0.1, 0.05, 0.025, 0.0125])


def test_a_scheduler_that_is_too_short_or_needs_a_score_is_refused() -> None:
    def fitted(schedule: Any) -> None:
        fit(network(), task(), epochs=1, learning_rate=0.1, optimizer="sgd", schedule=schedule)

    with pytest.raises(InvalidInput, match="is over at step 3, and the training has 6 steps"):
        fitted(
            lambda optimizer, steps: torch.optim.lr_scheduler.OneCycleLR(
                optimizer, 0.1, 2, cycle_momentum=False
            )
        )
    with pytest.raises(InvalidInput, match="ReduceLROnPlateau is not"):
        fitted(lambda optimizer, steps: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer))
    with pytest.raises(InvalidInput, match="returned a float"):
        fitted(lambda optimizer, steps: 0.1)

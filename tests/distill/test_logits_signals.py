"""Signals on logits: their function at the settings of the moment; z-scores; common classes."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from burnish.distill import (
    DIST,
    DKD,
    KD,
    BinaryKD,
    CommonClasses,
    JensenShannon,
    LogitMSE,
    LogitSignal,
    RegressionKD,
    ReverseKL,
    Standardized,
    binary_distillation_loss,
    dist,
    distillation_loss,
    dkd,
    jensen_shannon,
    mean_squared_logits,
    regression_distillation_loss,
    reverse_kl,
    standardize,
)
from burnish.train import Moment, Schedule

GENERATOR = torch.Generator().manual_seed(3)
STUDENT = torch.randn(6, 4, generator=GENERATOR)
TEACHER = torch.randn(6, 4, generator=GENERATOR) * 2
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])
ANSWERS = torch.randn(6, 4, generator=GENERATOR)
HALFWAY = Moment(progress=0.5, epoch=1, step=10, batch=0, draw=0)
FALLING = Schedule("linear", start=6.0, end=2.0)


@pytest.mark.parametrize(
    ("signal", "expected"),
    [
        (KD(2.0), distillation_loss(STUDENT, TEACHER, temperature=2.0)),
        (KD(FALLING), distillation_loss(STUDENT, TEACHER, temperature=4.0)),
        (ReverseKL(FALLING), reverse_kl(STUDENT, TEACHER, temperature=4.0)),
        (JensenShannon(FALLING), jensen_shannon(STUDENT, TEACHER, temperature=4.0)),
        (BinaryKD(FALLING), binary_distillation_loss(STUDENT, TEACHER, temperature=4.0)),
        (
            DKD(0.5, 2.0, FALLING),
            dkd(STUDENT, TEACHER, LABELS, alpha=0.5, beta=2.0, temperature=4.0),
        ),
        (DIST(0.5, 2.0, FALLING), dist(STUDENT, TEACHER, beta=0.5, gamma=2.0, temperature=4.0)),
        (LogitMSE(), mean_squared_logits(STUDENT, TEACHER)),
        (RegressionKD(), mean_squared_logits(STUDENT, TEACHER)),
        (
            Standardized(KD(FALLING)),
            distillation_loss(standardize(STUDENT), standardize(TEACHER), temperature=4.0),
        ),
    ],
    ids=lambda value: str(value) if not isinstance(value, torch.Tensor) else "",
)
def test_a_signal_is_its_function(signal: LogitSignal, expected: torch.Tensor) -> None:
    assert torch.equal(signal.loss(STUDENT, TEACHER, LABELS, HALFWAY), expected)


def test_a_bounded_regression_reads_the_target() -> None:
    signal = RegressionKD(margin=0.5)
    assert signal.needs_labels
    assert not RegressionKD().needs_labels
    expected = regression_distillation_loss(STUDENT, TEACHER, ANSWERS, margin=0.5)
    assert torch.equal(signal.loss(STUDENT, TEACHER, ANSWERS, HALFWAY), expected)


def test_signals_are_values_and_wear_names_of_their_own() -> None:
    signals: list[LogitSignal] = [KD(), ReverseKL(), JensenShannon(), DKD(), DIST(), LogitMSE()]
    signals += [BinaryKD(), RegressionKD(), Standardized(KD()), Standardized(DKD())]
    assert len({signal.name for signal in signals}) == len(signals)
    assert [signal.name for signal in signals if signal.needs_labels] == ["dkd", "standardized_dkd"]
    assert KD(2.0) == KD(2.0) != KD(3.0)
    assert dataclasses.replace(KD(), weight=0.5).weight == 0.5
    assert Standardized(KD(weight=FALLING)).weight is FALLING


class TestCommonClasses:
    student = ("ant", "bee", "cat", "dog")
    teacher = ("dog", "cow", "bee", "ant", "emu")
    answers = torch.randn(6, 5, generator=GENERATOR)

    def test_the_softmax_is_over_the_common_ones(self) -> None:
        signal = CommonClasses(KD(), self.student, self.teacher)
        loss = signal.loss(STUDENT, self.answers, None, HALFWAY)
        expected = distillation_loss(STUDENT[:, [0, 1, 3]], self.answers[:, [3, 2, 0]])
        assert torch.equal(loss, expected)
        assert (signal.name, signal.weight, signal.needs_labels) == ("kd", 1.0, False)

    def test_labels_are_renumbered_and_those_of_other_classes_are_none(self) -> None:
        signal = CommonClasses(DKD(), self.student, self.teacher)
        target = torch.tensor([0, 3, 2, -100, 1, 3])  # the third is a cat
        loss = signal.loss(STUDENT, self.answers, target, HALFWAY)
        known = [0, 1, 4, 5]
        expected = dkd(
            STUDENT[known][:, [0, 1, 3]],
            self.answers[known][:, [3, 2, 0]],
            torch.tensor([0, 2, 1, 2]),
        )
        torch.testing.assert_close(loss, expected * 4 / 6)

    def test_of_a_sequence(self) -> None:
        signal = CommonClasses(DKD(), self.student, self.teacher)
        folded = signal.loss(
            STUDENT.view(2, 3, 4), self.answers.view(2, 3, 5), LABELS.view(2, 3), HALFWAY
        )
        torch.testing.assert_close(folded, signal.loss(STUDENT, self.answers, LABELS, HALFWAY))

"""What losses on logits refuse, and that they name shapes, settings and the way out."""

from __future__ import annotations

from typing import Any

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
)
from burnish.errors import InvalidInput
from burnish.train import Moment, Schedule

STUDENT, TEACHER = torch.randn(8, 10), torch.randn(8, 10)
LABELS = torch.arange(8)
START = Moment(progress=0.0, epoch=0, step=0, batch=0, draw=0)
SIGNALS: list[LogitSignal] = [
    KD(),
    ReverseKL(),
    JensenShannon(),
    DKD(),
    DIST(),
    LogitMSE(),
    BinaryKD(),
    RegressionKD(),
    Standardized(KD()),
]
ON_CLASSES = [distillation_loss, reverse_kl, jensen_shannon, dist]


@pytest.mark.parametrize("signal", SIGNALS, ids=lambda signal: signal.name)
@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        (torch.randn(8, 100), r"\[8, 10\].*\[8, 100\], 10 outputs .*against 100.*CommonClasses"),
        (torch.randn(4, 10), r"\[8, 10\].*\[4, 10\], 8 samples against 4.*same batch"),
        (torch.randn(8, 3, 10), r"2 dimensions against 3"),
        (torch.randn(8), r"2 dimensions against 1"),
        (torch.randn(8, 10).argmax(1), r"teacher's output is torch.int64 of shape \[8\]"),
        ({"logits": torch.randn(8, 10)}, r"teacher's output is a dict, not a tensor"),
    ],
    ids=["classes", "samples", "dimensions", "flat", "integers", "dict"],
)
def test_a_teacher_whose_outputs_do_not_match(signal: LogitSignal, teacher: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        signal.loss(STUDENT, teacher, LABELS, START)


def test_a_student_of_the_wrong_kind() -> None:
    with pytest.raises(InvalidInput, match="student's output is a list, not a tensor"):
        distillation_loss([1.0, 2.0], TEACHER)  # type: ignore[arg-type]


def test_sequences_of_different_length() -> None:
    with pytest.raises(InvalidInput, match=r"differ before the last axis"):
        distillation_loss(torch.randn(2, 5, 3), torch.randn(2, 6, 3))


@pytest.mark.parametrize("loss", ON_CLASSES, ids=lambda loss: loss.__name__)
def test_one_class_has_nothing_to_say(loss: Any) -> None:
    for shape in [(8, 1), (8,)]:
        with pytest.raises(InvalidInput, match="binary_distillation_loss"):
            loss(torch.randn(shape), torch.randn(shape))


@pytest.mark.parametrize("loss", ON_CLASSES, ids=lambda loss: loss.__name__)
def test_a_class_axis_that_cannot_be_told(loss: Any) -> None:
    picture = torch.randn(2, 21, 4, 4)
    with pytest.raises(InvalidInput, match=r"\[2, 21, 4, 4\].*movedim\(1, -1\)"):
        loss(picture, picture)
    mended = picture.movedim(1, -1).flatten(0, -2)
    assert loss(mended, mended).abs() < 1e-5


@pytest.mark.parametrize(
    "loss", [*ON_CLASSES, binary_distillation_loss, mean_squared_logits], ids=lambda f: f.__name__
)
def test_an_empty_batch(loss: Any) -> None:
    with pytest.raises(InvalidInput, match=r"\[0, 10\] hold no sample"):
        loss(torch.randn(0, 10), torch.randn(0, 10))


class TestLabels:
    def test_unlabelled_data_with_a_loss_that_needs_labels(self) -> None:
        with pytest.raises(InvalidInput, match=r"dkd needs labels.*unlabelled data use.*KD"):
            DKD().loss(STUDENT, TEACHER, None, START)
        with pytest.raises(InvalidInput, match=r"needs labels.*leave the margin out"):
            RegressionKD(margin=0.0).loss(STUDENT, TEACHER, None, START)
        with pytest.raises(InvalidInput, match="dkd needs labels"):
            Standardized(DKD()).loss(STUDENT, TEACHER, None, START)

    @pytest.mark.parametrize(
        ("target", "said"),
        [
            (STUDENT.softmax(1), "the target is torch.float32.*mixed or smoothed"),
            (LABELS > 3, "the target is torch.bool"),
            ([0, 1, 2], "the target is list"),
            (LABELS[:, None], r"shape \[8, 1\].*need \[8\]"),
            (LABELS + 3, "holds class 10, and the logits have 10 classes, 0 to 9"),
            (LABELS - 1, "holds class -1"),
        ],
        ids=["float", "bool", "list", "column", "too large", "negative"],
    )
    def test_a_target_that_is_no_class(self, target: Any, said: str) -> None:
        with pytest.raises(InvalidInput, match=said):
            dkd(STUDENT, TEACHER, target)

    def test_two_classes_have_no_others(self) -> None:
        with pytest.raises(InvalidInput, match="beta weighs nothing: use distillation_loss"):
            dkd(STUDENT[:, :2], TEACHER[:, :2], LABELS % 2)

    def test_answers_of_a_regression(self) -> None:
        with pytest.raises(InvalidInput, match=r"target is \[8\], and answers of shape \[8, 1\]"):
            regression_distillation_loss(STUDENT[:, :1], TEACHER[:, :1], STUDENT[:, 0], margin=0.0)
        with pytest.raises(InvalidInput, match="target is list"):
            regression_distillation_loss(STUDENT, TEACHER, [1.0], margin=0.0)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="read with margin"):
            regression_distillation_loss(STUDENT, TEACHER, STUDENT)
        with pytest.raises(InvalidInput, match="holds NaN"):
            regression_distillation_loss(STUDENT, TEACHER, STUDENT * torch.nan, margin=0.0)


class TestSettings:
    @pytest.mark.parametrize("signal", [KD, ReverseKL, JensenShannon, DKD, DIST, BinaryKD])
    @pytest.mark.parametrize("temperature", [0, 0.0, -1.0, float("nan"), float("inf"), "4", True])
    def test_a_temperature_is_above_0(self, signal: Any, temperature: Any) -> None:
        with pytest.raises(InvalidInput, match=rf"{signal.__name__}\(temperature=.*above 0"):
            signal(temperature=temperature)

    @pytest.mark.parametrize("signal", [type(signal) for signal in SIGNALS[:-1]])
    def test_a_weight_is_not_negative(self, signal: Any) -> None:
        with pytest.raises(InvalidInput, match=rf"{signal.__name__}\(weight=-1.0\): .* 0 or more"):
            signal(weight=-1.0)
        assert signal(weight=0).weight == 0

    @pytest.mark.parametrize(
        "make", [lambda: DKD(alpha=-1), lambda: DIST(gamma=-1), lambda: RegressionKD(margin=-1)]
    )
    def test_other_settings(self, make: Any) -> None:
        with pytest.raises(InvalidInput, match=r"\(\w+=-1\): a finite number 0 or more"):
            make()

    @pytest.mark.parametrize("loss", [*ON_CLASSES, binary_distillation_loss])
    def test_functions_check_theirs(self, loss: Any) -> None:
        with pytest.raises(InvalidInput, match=rf"{loss.__name__}\(temperature=0.0\)"):
            loss(STUDENT, TEACHER, temperature=0.0)

    def test_a_schedule_that_reaches_a_temperature_of_0(self) -> None:
        with pytest.raises(InvalidInput, match=r"KD\(temperature at progress 1=0.0\)"):
            KD(Schedule("linear", start=4.0, end=0.0))
        assert KD(weight=Schedule("linear", start=1.0, end=0.0))


class TestCommonClasses:
    def test_no_common_classes(self) -> None:
        said = (
            "no common classes among the student's 'a', 'b' and the teacher's 'c', 'd', 'e' and 1"
        )
        with pytest.raises(InvalidInput, match=said):
            CommonClasses(KD(), ("a", "b"), ("c", "d", "e", "A"))

    def test_a_name_twice(self) -> None:
        with pytest.raises(InvalidInput, match=r"teacher=…\) names 'c' twice"):
            CommonClasses(KD(), ("a", "c"), ("c", "c"))

    def test_more_or_fewer_outputs_than_names(self) -> None:
        signal = CommonClasses(DKD(), ("a", "b", "c"), ("a", "b", "c"))
        with pytest.raises(InvalidInput, match=r"student gives \[8, 10\], and 3 classes"):
            signal.loss(STUDENT, TEACHER[:, :3], LABELS, START)
        with pytest.raises(InvalidInput, match=r"teacher gives \[8, 10\], and 3 classes"):
            signal.loss(STUDENT[:, :3], TEACHER, LABELS, START)
        with pytest.raises(InvalidInput, match="CommonClasses: the target holds class 3"):
            signal.loss(STUDENT[:, :3], TEACHER[:, :3], LABELS, START)

    def test_one_common_class_is_too_few_for_a_softmax(self) -> None:
        signal = CommonClasses(KD(), ("a", "b"), ("c", "a"))
        with pytest.raises(InvalidInput, match="no two classes"):
            signal.loss(STUDENT[:, :2], TEACHER[:, :2], None, START)

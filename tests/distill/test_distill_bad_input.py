"""What distillation refuses: in words that name the thing, and before anything is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from burnish.distill import (
    DKD,
    KD,
    Balanced,
    CommonClasses,
    Hint,
    LogitMSE,
    SelfTeacher,
    Tap,
    Teacher,
    distill,
)
from burnish.distill._teachers import most_confident
from burnish.errors import InvalidInput, Unsupported
from burnish.train import Schedule, Tricks
from tests.distill.small import BATCHES, QUICK, UNLABELLED, X, network, student, task, teacher


def refused(words: str, *given: Any, kind: type[Exception] = InvalidInput, **changes: Any) -> None:
    """distill() raises before it trains, and its message has those words."""
    mine, theirs, on, *signals = (*given, None, None, None)[:4]
    with pytest.raises(kind, match=words):
        distill(
            mine or student(),
            theirs if theirs is not None else teacher(),
            on or task(),
            *([signals[0]] if signals[0] is not None else []),
            **{**QUICK, **changes},
        )


class Never:
    """Train data that must not be looked at."""

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Any:
        raise AssertionError("the train data was read")


def test_outputs_of_another_shape_are_named_with_their_sizes() -> None:
    other = nn.Sequential(nn.Linear(4, 5)).eval()
    refused(r"\[4, 3\] and the teacher \[4, 5\]", None, other, task(train=Never()))


def test_no_common_classes() -> None:
    with pytest.raises(InvalidInput, match="no common classes"):
        CommonClasses(KD(), student=("cat", "dog", "cow"), teacher=("oak", "elm"))


def test_a_tap_that_names_no_layer_lists_near_names() -> None:
    deep = nn.Sequential()
    deep.add_module("layer1", nn.Linear(4, 4))
    deep.add_module("layer2", nn.Linear(4, 3))
    wrong = (Hint(Tap("0", teacher="layr2")),)
    refused(r"teacher has no layer 'layr2'; near are '(layer2|layer1)'", None, deep.eval(),
            task(train=Never()), wrong)  # fmt: skip
    refused("student has no layer", None, None, task(train=Never()), (Hint(Tap("layer9")),))


@pytest.mark.parametrize(
    ("train", "words"),
    [
        (UNLABELLED, "no labels.*labels=None"),
        ([(x, torch.full_like(y, -100)) for x, y in BATCHES], "not one sample.*-100"),
    ],
    ids=["no target", "all -100"],
)
def test_unlabelled_data_with_a_loss_that_needs_labels(train: Any, words: str) -> None:
    refused(words, None, None, task(train=train))


def test_unlabelled_data_with_a_signal_that_needs_labels() -> None:
    on = task(train=UNLABELLED, loss=None)
    refused("dkd needs labels", None, None, on, (DKD(),), labels=None)


def test_mixed_labels_with_a_signal_that_needs_classes() -> None:
    refused("mixed or smoothed labels", None, None, None, (DKD(),), tricks=Tricks(mixup=0.2))


def test_a_weight_for_labels_without_a_loss() -> None:
    refused("the task has none", None, None, task(loss=None, train=Never()))


def test_a_schedule_beyond_its_length() -> None:
    with pytest.raises(InvalidInput, match=r"progress 1\.2"):
        Schedule("cosine").at(1.2)


def test_train_data_in_use_as_test_data() -> None:
    refused("test", None, None, task(test=BATCHES))


def test_a_frozen_student() -> None:
    """Also where an adapter could learn: an adapter is thrown away."""
    frozen = student().requires_grad_(False)
    refused("takes gradients", frozen)
    refused("takes gradients", frozen, None, None, (KD(), Hint(Tap("0"))))


def test_signals_that_reach_no_trainable_parameter() -> None:
    partly = student()
    partly[0].requires_grad_(False)
    refused("trainable", partly, None, None, (Hint(Tap("0")),), labels=None)


class Noisy(nn.Module):
    """Its dropout is on whatever mode it is in."""

    def __init__(self) -> None:
        super().__init__()
        self.net = teacher()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.net(F.dropout(x, 0.5, training=True))
        return found


class Learning(nn.Module):
    """Its batch-norm is in train mode whatever is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.net = teacher()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.norm.train()
        found: torch.Tensor = self.net(self.norm(x))
        return found


@pytest.mark.parametrize("kind", [Noisy, Learning])
def test_a_teacher_that_does_not_stand_still(kind: type[nn.Module]) -> None:
    refused("two answers", None, kind().eval(), task(train=Never()))


def test_a_teacher_that_is_called_otherwise() -> None:
    refused("teacher fails on the example call", None, nn.Linear(7, 3), task(train=Never()))


def test_what_is_no_teacher() -> None:
    refused("teacher is a str", None, "resnet56", task(train=Never()))
    refused("list of teachers is empty", None, [], task(train=Never()))
    with pytest.raises(InvalidInput, match="weight=0"):
        Teacher(teacher(), weight=0.0)
    with pytest.raises(InvalidInput, match=r"decay=1\.5"):
        SelfTeacher(1.5)


def test_what_is_no_signal() -> None:
    refused("at least one signal", None, None, task(train=Never()), ())
    refused("holds a str", None, None, task(train=Never()), ("kd",))
    refused("give a tuple", None, None, task(train=Never()), KD())

    class Half:
        name, weight = "half", 1.0

        def loss(self, *given: Any) -> torch.Tensor:
            raise AssertionError("was used")

    refused("holds a Half", None, None, task(train=Never()), (Half(),))


def test_a_balance_without_anything_to_balance_with() -> None:
    on = task(train=Never())
    refused("no labels to balance", None, None, on, (Balanced(KD()),), labels=None)
    with pytest.raises(InvalidInput, match="one ratio"):
        Balanced(Balanced(KD()))
    with pytest.raises(InvalidInput, match="ratio=0"):
        Balanced(KD(), ratio=0.0)


def test_a_balance_with_a_loss_below_zero() -> None:
    class Likelihood:
        name, weight, needs_labels = "likelihood", 1.0, False

        def loss(self, student: torch.Tensor, *given: Any) -> torch.Tensor:
            return student.square().mean() - 10.0

    words = "is Balanced, and its loss or the one it is held to is below 0"
    refused(f"likelihood {words}", None, None, None, (Balanced(Likelihood()),))
    refused(f"kd {words}", None, None, None, (Likelihood(), Balanced(KD())), labels=None)


def test_labels_of_a_negative_weight() -> None:
    refused("labels=-1", None, None, task(train=Never()), labels=-1.0)


def test_several_teachers_that_do_not_go_together() -> None:
    both = [teacher(), network(12, 7)]
    on = task(train=Never())
    wide = nn.Sequential(nn.Linear(4, 5))
    refused(r"teacher 2: .*\[4, 3\] and the teacher \[4, 5\]", None, [both[0], wide], on)
    refused("learn from one teacher", None, both, on, (Hint(Tap("0")),))
    refused("combine='best'", None, both, on, combine="best")
    refused("several teachers", None, None, on, combine="confidence")
    weighted = [Teacher(both[0], 2.0), Teacher(both[1])]
    refused("leave the weights at 1", None, weighted, on, combine="confidence")
    with pytest.raises(InvalidInput, match=r"\[2, 3\], \[2, 4\]"):
        most_confident([torch.zeros(2, 3), torch.zeros(2, 4)])


def test_an_output_without_logits() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = teacher()

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"scores": self.net(x), "features": x}

    refused("teacher returns a dict with the keys 'scores', 'features'", None, Named().eval(),
            task(train=Never()))  # fmt: skip


def test_some_labels_missing_where_samples_do_not_lie_first() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = student()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.net(x)
            return found.T

    target = torch.zeros(16, dtype=torch.int64)
    target[3] = -100
    on = task(train=[(X[:16], target)], loss=lambda output, target: output.mean())
    turned = Turned().eval()
    refused("along axis 0", turned, turned, on, (LogitMSE(),))


def test_a_teacher_that_cannot_be_copied() -> None:
    odd = teacher()
    odd.handle = (number for number in range(3))  # type: ignore[assignment]
    refused("teacher cannot be copied", None, odd, task(train=Never()), kind=Unsupported)


def test_a_layer_of_a_traced_teacher_cannot_be_tapped() -> None:
    from burnish.graph import trace

    traced = trace(teacher(), (X[:2],))
    refused("traced", None, traced, task(train=Never()), (Hint(Tap("0")),), kind=Unsupported)

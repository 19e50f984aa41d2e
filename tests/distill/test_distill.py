"""Distilling: it teaches, its loss is the formula's, the teacher stays out of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from burnish.distill import KD, Balanced, Hint, LogitMSE, SelfTeacher, Tap, Teacher, distill
from burnish.distill._distill import HINTON, make_objective
from burnish.distill._objective import Distillation
from burnish.goal import Call, Task
from burnish.graph import Traced, trace
from burnish.train import Moment, Schedule, Tricks
from tests.distill.small import (
    BATCHES,
    EXAMPLE,
    QUICK,
    START,
    UNLABELLED,
    X,
    Y,
    agreement,
    network,
    same_state,
    sharpened,
    state,
    student,
    task,
    teacher,
)


def objective(
    teaching: Any, signals: Any = HINTON, on: Task | None = None, **changes: Any
) -> Distillation:
    settings = {"labels": 1.0, "combine": "weights", "cache": None, "seed": 0, **changes}
    return make_objective(student(), teaching, on or task(), signals, **settings)


def parts(
    teaching: Any, target: Any = Y, moment: Moment = START, signals: Any = HINTON, **changes: Any
) -> dict[str, float]:
    made = objective(teaching, signals, **changes)(student(), Call((X,), {}, target), moment)
    return {name: float(value.detach()) for name, value in made.items()}


def hinton(logits: torch.Tensor, wanted: torch.Tensor, temperature: float) -> float:
    """T^2 * mean over samples of sum p log(p / q), in float64, written out."""
    total = 0.0
    for row, other in zip(logits.double().tolist(), wanted.double().tolist(), strict=True):
        q = [math.exp(z / temperature) for z in row]
        p = [math.exp(z / temperature) for z in other]
        for a, b in zip(p, q, strict=True):
            total += a / sum(p) * math.log(a / sum(p) / (b / sum(q)))
    return temperature**2 * total / len(logits)


def cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> list[float]:
    """Of each sample, in float64, written out."""
    rows = logits.double().tolist()
    return [
        math.log(sum(math.exp(z) for z in row)) - row[label]
        for row, label in zip(rows, target.tolist(), strict=True)
    ]


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    found: torch.Tensor = model(X)
    return found


def test_a_student_learns_from_the_teacher_alone() -> None:
    fitted = distill(
        student(), teacher(), task(train=UNLABELLED, loss=None), labels=None, epochs=25,
        learning_rate=0.02,
    )  # fmt: skip
    assert agreement(student()) < 0.6
    assert agreement(fitted.model) > 0.9


def test_the_loss_is_labels_plus_weighted_signals() -> None:
    found = parts(teacher(), signals=(KD(temperature=3.0, weight=0.9), LogitMSE(0.5)), labels=0.1)
    mine, theirs = logits(student()), logits(teacher())
    losses = cross_entropy(mine, Y)
    assert list(found) == ["labels", "kd", "logit_mse"]
    assert found["labels"] == pytest.approx(0.1 * sum(losses) / len(losses), rel=1e-5)
    assert found["kd"] == pytest.approx(0.9 * hinton(mine, theirs, 3.0), rel=1e-5)
    squares = (mine.double() - theirs.double()).square()
    assert found["logit_mse"] == pytest.approx(0.5 * float(squares.sum()) / squares.numel())


def test_weights_and_temperatures_follow_their_schedules() -> None:
    weight, temperature = Schedule("linear", 0.0, 2.0), Schedule("linear", 2.0, 6.0)
    moment = Moment(progress=0.25, epoch=1, step=3, batch=0, draw=0)
    found = parts(
        teacher(), moment=moment, signals=(KD(temperature, weight),), labels=Schedule("linear")
    )
    mine, theirs = logits(student()), logits(teacher())
    assert found["kd"] == pytest.approx(0.5 * hinton(mine, theirs, 3.0), rel=1e-5)
    losses = cross_entropy(mine, Y)
    assert found["labels"] == pytest.approx(0.75 * sum(losses) / len(losses), rel=1e-5)


def test_two_signals_of_one_name_stay_two_parts() -> None:
    assert list(parts(teacher(), signals=(KD(1.0), KD(4.0)))) == ["labels", "kd", "kd 2"]


@dataclass(frozen=True)
class Own:
    """A signal of somebody's own, named like the loss on the labels, with a function in it."""

    function: Any = F.mse_loss
    name: str = "labels"
    weight: float = 2.0
    needs_labels: bool = False

    def loss(self, student: Any, teacher: Any, target: Any, moment: Moment) -> torch.Tensor:
        found: torch.Tensor = self.function(student, teacher)
        return found


def test_a_signal_of_ones_own_takes_nobodys_name_and_can_be_recorded(tmp_path: Path) -> None:
    assert list(parts(teacher(), signals=(Own(), Own()))) == ["labels", "labels 2", "labels 3"]
    record = distill(student(), teacher(), task(), (Own(),), **QUICK).record
    record.save(tmp_path / "record.json")
    (signal,) = record.settings["objective"]["signals"]
    assert (signal["type"], signal["function"]) == ("Own", "mse_loss")


def test_the_models_are_left_alone_and_the_record_shows_the_parts() -> None:
    mine, theirs = student().train(), network(16, 1, extras=True).train()
    before = state(mine), state(theirs)
    fitted = distill(mine, theirs, task(), **QUICK)
    assert same_state(before[0], state(mine))
    assert same_state(before[1], state(theirs))
    assert [mine.training, theirs.training, theirs[1].training] == [True] * 3
    assert all(p.requires_grad and p.grad is None for p in theirs.parameters())
    assert not same_state(before[0], state(fitted.model))
    assert [sorted(epoch.parts) for epoch in fitted.record.epochs] == [["kd", "labels"]] * 2


def test_a_teacher_handed_over_in_train_mode_answers_in_eval_mode() -> None:
    theirs = network(16, 1, extras=True)
    found = parts(theirs.train(), labels=None, target=None)["kd"]
    assert found == pytest.approx(hinton(logits(student()), logits(theirs.eval()), 4.0), rel=1e-5)
    noisy = hinton(logits(student()), logits(theirs.train()), 4.0)
    assert abs(noisy - found) > 1e-3


def test_no_gradient_reaches_the_teacher() -> None:
    made = objective(teacher(), (KD(), Hint(Tap("0"))), labels=None)
    found = made(student(), Call((X,), {}, None), START)
    sum(found.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is None for p in made.panel.copies[0].parameters())


def test_the_same_seed_gives_the_same_student() -> None:
    signals = (KD(), Hint(Tap("0")))  # of unequal widths: an adapter is drawn
    torch.manual_seed(5)
    one = distill(student(), teacher(), task(), signals, **QUICK).model
    torch.manual_seed(6)
    two = distill(student(), teacher(), task(), signals, **QUICK).model
    other = distill(student(), teacher(), task(), signals, **QUICK, seed=1).model
    assert same_state(state(one), state(two))
    assert not same_state(state(one), state(other))


def test_a_sample_without_label_teaches_through_the_signals_alone() -> None:
    target = Y.clone()
    target[::3] = -100
    found = parts(teacher(), target=target)
    losses = cross_entropy(logits(student()), Y)
    labelled = [loss for index, loss in enumerate(losses) if index % 3]
    assert found["labels"] == pytest.approx(sum(labelled) / len(losses), rel=1e-5)
    assert found["kd"] == pytest.approx(parts(teacher())["kd"])


def test_a_batch_without_any_label_has_no_loss_on_labels() -> None:
    found = parts(teacher(), target=torch.full_like(Y, -100))
    assert found["labels"] == 0.0
    assert found["kd"] > 0.0


def test_a_handful_of_labels_among_many_samples() -> None:
    few = [(x, torch.where(torch.arange(16) < (number == 1), y, -100)) for number, (x, y) in
           enumerate(BATCHES)]  # fmt: skip
    fitted = distill(student(), teacher(), task(train=few), epochs=25, learning_rate=0.02)
    assert agreement(fitted.model) > 0.9
    assert all(epoch.parts["labels"] >= 0.0 for epoch in fitted.record.epochs)


def test_a_sample_of_many_labels_is_labelled_when_one_of_them_is_known() -> None:
    """Tokens: the loss itself passes over -100 where a sample has other labels."""
    target = torch.tensor([[1, -100], [-100, -100], [0, 2]])
    output = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(1))

    def loss(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits.flatten(0, 1), wanted.flatten())

    made = objective(teacher(), on=task(loss=loss))
    found = made._of_labels(output, target)
    assert found is not None
    expected = loss(output[[0, 2]], target[[0, 2]]) * 2 / 3
    assert float(found) == pytest.approx(float(expected))


def test_several_teachers_are_averaged_by_their_weights() -> None:
    one, two = teacher(), network(12, 7)
    found = parts([Teacher(one, weight=3.0), Teacher(two)])["kd"]
    mine = logits(student())
    expected = 0.75 * hinton(mine, logits(one), 4.0) + 0.25 * hinton(mine, logits(two), 4.0)
    assert found == pytest.approx(expected, rel=1e-5)
    assert parts([one, two])["kd"] == pytest.approx(
        0.5 * hinton(mine, logits(one), 4.0) + 0.5 * hinton(mine, logits(two), 4.0), rel=1e-5
    )


def test_the_surest_teacher_speaks_for_each_sample() -> None:
    one, two = teacher(), sharpened(network(12, 7), 20.0)
    both = [logits(one), logits(two)]
    surest = [int(logits(one)[i].softmax(0).max() < logits(two)[i].softmax(0).max())
              for i in range(len(X))]  # fmt: skip
    assert 0 < sum(surest) < len(X)
    chosen = torch.stack([both[who][i] for i, who in enumerate(surest)])
    found = parts([one, two], combine="confidence")["kd"]
    assert found == pytest.approx(hinton(logits(student()), chosen, 4.0), rel=1e-5)


def test_logits_are_found_in_dicts_objects_and_tuples() -> None:
    class Wrapped(nn.Module):
        def __init__(self, form: str) -> None:
            super().__init__()
            self.net = teacher()
            self.form = form

        def forward(self, x: torch.Tensor) -> Any:
            found = self.net(x)
            return {"logits": found, "rest": x} if self.form == "dict" else (found, x)

    plain = parts(teacher())["kd"]
    for form in ("dict", "tuple"):
        assert parts(Wrapped(form))["kd"] == pytest.approx(plain)


def test_a_balanced_signal_is_held_at_its_ratio() -> None:
    """The running means are 0.9 of the old and 0.1 of the new, for both losses."""
    made = objective(teacher(), (Balanced(LogitMSE(), ratio=0.5),))
    net, anchor, own = student(), 0.0, 0.0
    for x, y in BATCHES[:3]:
        found = made(net, Call((x,), {}, y), START)
        with torch.no_grad():
            labels = float(F.cross_entropy(net(x), y))
            error = float(F.mse_loss(net(x), teacher()(x)))
        anchor, own = 0.9 * anchor + 0.1 * labels, 0.9 * own + 0.1 * error
        assert float(found["logit_mse"].detach()) == pytest.approx(
            0.5 * anchor / own * error, rel=1e-5
        )
    first = made(net, Call((X,), {}, Y), START)
    grown = torch.autograd.grad(first["logit_mse"], list(net.parameters()))
    plain = torch.autograd.grad(F.mse_loss(net(X), teacher()(X).detach()), list(net.parameters()))
    factors = {round(float((a / b).flatten()[0]), 4) for a, b in zip(grown, plain, strict=True)}
    assert len(factors) == 1  # no gradient through the weight


def test_a_balance_does_not_blow_up_rounding_errors() -> None:
    """A student that agrees with its teacher but for the last digits."""
    nearly = student()
    with torch.no_grad():
        nearly.get_parameter("0.bias").add_(1e-6)
    found = parts(nearly, signals=(Balanced(LogitMSE()),))
    assert 0.0 < found["logit_mse"] < 1e-5


def test_without_labels_a_signal_is_balanced_with_the_first() -> None:
    found = parts(
        teacher(), target=None, labels=None, signals=(KD(weight=2.0), Balanced(LogitMSE()))
    )
    assert found["logit_mse"] == pytest.approx(found["kd"], rel=1e-5)


def test_a_self_teacher_is_the_moving_average_of_the_student() -> None:
    made = objective(SelfTeacher(0.8), (LogitMSE(),))
    net = student()
    average = [p.detach().clone() for p in net.parameters()]
    for step in range(4):
        if step:
            with torch.no_grad():
                for p in net.parameters():
                    p.add_(0.1 * step)
            decay = min(0.8, (1 + step) / (10 + step))
            average = [decay * a + (1 - decay) * p for a, p in
                       zip(average, net.parameters(), strict=True)]  # fmt: skip
        moment = Moment(progress=0.0, epoch=0, step=step, batch=step, draw=0)
        for _ in range(2):  # a second batch of the same step leaves the average where it is
            made(net, Call((X,), {}, Y), moment)
        for a, p in zip(average, made.panel.copies[0].parameters(), strict=True):
            torch.testing.assert_close(a, p)


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Adapters, running means and the self-teacher come back from the checkpoint."""
    signals = (KD(), Balanced(LogitMSE()), Hint(Tap("0")))
    settings: dict[str, Any] = {"epochs": 3, "learning_rate": 0.01}

    def stopping(batches: Any, title: str) -> Any:
        if "epoch 3" in title:
            raise KeyboardInterrupt
        return batches

    for teaching, given in ((teacher(), signals), (SelfTeacher(0.9), signals[:2])):
        folder = tmp_path / type(teaching).__name__
        whole = distill(student(), teaching, task(), given, **settings)
        with pytest.raises(KeyboardInterrupt):
            distill(student(), teaching, task(), given, **settings, checkpoints=folder,
                    watch=stopping)  # fmt: skip
        resumed = distill(student(), teaching, task(), given, **settings, checkpoints=folder)
        assert same_state(state(whole.model), state(resumed.model))


def test_a_traced_student_learns_from_a_module() -> None:
    args, kwargs, axes = EXAMPLE.to_trace()
    traced = trace(student(), args, kwargs, axes)
    fitted = distill(traced, teacher(), task(), epochs=10, learning_rate=0.02)
    assert isinstance(fitted.model, Traced)
    assert agreement(fitted.model) > agreement(student())


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_it_trains_in_half_precision(precision: str) -> None:
    fitted = distill(
        student(), teacher(), task(), (KD(), Hint(Tap("0"))), epochs=10, learning_rate=0.02,
        precision=precision,
    )  # fmt: skip
    assert agreement(fitted.model) > agreement(student())
    assert all(math.isfinite(v) for epoch in fitted.record.epochs for v in epoch.parts.values())


def test_the_teacher_sees_what_mixup_made() -> None:
    """Labels are smoothed and mixed by fit; signals compare both models on the mixed samples."""
    seen: list[float] = []

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = teacher()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(float(x.square().sum()))
            found: torch.Tensor = self.net(x)
            return found

    watching = Watching()
    before = {float(x.square().sum()) for x, _ in BATCHES}
    tricks = Tricks(mixup=0.4, label_smoothing=0.1, accumulate=2)
    Watching.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]
    fitted = distill(student(), watching, task(), tricks=tricks, **QUICK)
    assert sorted(fitted.record.epochs[0].parts) == ["kd", "labels"]
    assert len(seen) == 2 + 2 * len(BATCHES)
    assert not before & set(seen)

"""Objectives: what they are given, what becomes of their parts, and the regularizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from burnish.errors import InvalidInput
from burnish.goal import Call
from burnish.train import Moment, Objective, Precision, TaskLoss, Tricks, fit
from tests.train.small import BATCHES, network, plain, same, state, task

ONCE: dict[str, Any] = {
    "epochs": 1,
    "learning_rate": 0.1,
    "optimizer": torch.optim.SGD,
    "schedule": "constant",
    "weight_decay": 0.0,
}


class Noting:
    """The task's loss in two parts, with everything it is told written down."""

    def __init__(self, extras: nn.Module | None = None) -> None:
        self.extras = extras
        self.moments: list[Moment] = []
        self.models: list[tuple[type, bool]] = []

    def modules(self) -> nn.Module | None:
        return self.extras

    def settings(self) -> Mapping[str, Any]:
        return {"kind": "noting"}

    def __call__(self, model: nn.Module, call: Call, moment: Moment) -> Mapping[str, torch.Tensor]:
        self.moments.append(moment)
        self.models.append((type(model), model.training))
        loss = F.cross_entropy(model(*call.args), call.target)
        return {"most": 0.75 * loss, "rest": 0.25 * loss}


def test_the_task_s_loss_is_an_objective() -> None:
    assert isinstance(TaskLoss(task()), Objective)
    assert isinstance(Noting(), Objective)


def test_parts_are_added_up_and_recorded_each() -> None:
    one = fit(plain(), task(), **ONCE)
    two = fit(plain(), task(loss=None), objective=Noting(), **ONCE)
    for name, tensor in one.model.state_dict().items():
        torch.testing.assert_close(two.model.state_dict()[name], tensor)
    mean = sum(one.record.epochs[0].losses) / 6
    parts = two.record.epochs[0].parts
    assert parts == pytest.approx({"most": 0.75 * mean, "rest": 0.25 * mean})
    assert one.record.epochs[0].parts == pytest.approx({"loss": mean})
    assert two.record.settings["objective"] == {"kind": "noting"}


def test_moments_count_batches_steps_and_epochs() -> None:
    noting = Noting()
    given: dict[str, Any] = {**ONCE, "epochs": 2}
    fit(plain(), task(), objective=noting, tricks=Tricks(accumulate=4), **given)
    assert [m.batch for m in noting.moments] == [0, 1, 2, 3, 4, 5] * 2
    assert [m.epoch for m in noting.moments] == [0] * 6 + [1] * 6
    assert [m.step for m in noting.moments] == [0] * 4 + [1] * 2 + [2] * 4 + [3] * 2
    assert [m.progress for m in noting.moments] == [m.step / 4 for m in noting.moments]
    draws = [m.draw for m in noting.moments]
    assert len(set(draws[:6])) == len(set(draws[6:])) == 1
    assert draws[0] != draws[6]
    assert 0 <= min(draws) <= max(draws) < 2**63


def test_it_is_given_the_bare_student_in_train_mode() -> None:
    noting, net = Noting(), network()
    fit(net, task(), objective=noting, **ONCE)
    assert set(noting.models) == {(type(net), True)}


def test_its_modules_learn_and_keep_their_mode() -> None:
    class Scaling(Noting):
        def __call__(self, model: nn.Module, call: Call, moment: Moment) -> Any:
            assert isinstance(self.extras, nn.Sequential)
            assert not self.extras[1].training
            return {"loss": F.cross_entropy(self.extras(model(*call.args)), call.target)}

    extras = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2).eval(), nn.Linear(2, 2))
    extras[2].requires_grad_(False)
    before = state(extras)
    fitted = fit(plain(), task(), objective=Scaling(extras), **ONCE)
    after = state(extras)
    assert not torch.equal(after["0.weight"], before["0.weight"])
    assert torch.equal(after["2.weight"], before["2.weight"])
    assert torch.equal(after["1.running_mean"], before["1.running_mean"])
    assert fitted.record.num_parameters == sum(
        p.numel() for p in [*fitted.model.parameters(), *extras.parameters()] if p.requires_grad
    )


def test_a_part_may_be_missing_in_some_steps() -> None:
    class Sometimes(Noting):
        def __call__(self, model: nn.Module, call: Call, moment: Moment) -> Any:
            loss = F.cross_entropy(model(*call.args), call.target)
            return {"labels": loss} if moment.batch % 2 else {"teacher": loss}

    epoch = fit(plain(), task(), objective=Sometimes(), **ONCE).record.epochs[0]
    assert epoch.parts["teacher"] == pytest.approx(sum(epoch.losses[::2]) / 6)
    assert epoch.parts["labels"] == pytest.approx(sum(epoch.losses[1::2]) / 6)


@pytest.mark.parametrize("num", [1, 3])
def test_the_regularizer_is_added_once_a_step(num: int) -> None:
    """One step of plain descent: the gradient is the loss's and the penalty's."""

    def penalty(model: nn.Module) -> torch.Tensor:
        return 0.3 * sum(p.square().sum() for p in model.parameters())  # type: ignore[return-value]

    settings: dict[str, Any] = {"tricks": Tricks(accumulate=num), "regularizer": penalty}
    fitted = fit(plain(), task(train=BATCHES[:num]), **ONCE, **settings)
    net = plain()
    loss = sum(F.cross_entropy(net(x), y) for x, y in BATCHES[:num]) / num
    (loss + penalty(net)).backward()
    for got, old in zip(fitted.model.parameters(), net.parameters(), strict=True):
        assert old.grad is not None
        torch.testing.assert_close(got, old - 0.1 * old.grad)
    parts = fitted.record.epochs[0].parts
    assert parts["regularizer"] == pytest.approx(penalty(plain()).item())
    assert fitted.record.settings["regularizer"].endswith("penalty")


def test_the_regularizer_is_computed_in_float32() -> None:
    seen: list[torch.dtype] = []

    def penalty(model: nn.Module) -> torch.Tensor:
        weight = next(model.parameters())
        product = weight @ weight.T
        seen.append(product.dtype)
        return product.sum()

    fit(plain(), task(), regularizer=penalty, precision=Precision("bfloat16"), **ONCE)
    assert set(seen) == {torch.float32}


class Grown:
    """A penalty that grows, with all it was asked for written down."""

    def __init__(self, strength: float = 0.3) -> None:
        self.strength = strength
        self.asked: list[float] = []

    def at(self, progress: float) -> Callable[[nn.Module], torch.Tensor]:
        self.asked.append(progress)
        return lambda model: self.strength * progress * next(model.parameters()).square().sum()

    def settings(self) -> Mapping[str, Any]:
        return {"strength": self.strength}


def test_a_regularizer_may_grow_with_the_training(tmp_path: Path) -> None:
    """It is asked once a batch, by the progress of the steps, and its settings are recorded."""
    grown = Grown()
    given: dict[str, Any] = {**ONCE, "epochs": 2, "tricks": Tricks(accumulate=2)}
    fitted = fit(plain(), task(), regularizer=grown, checkpoints=tmp_path, **given)
    assert grown.asked == [step / 6 for step in range(6) for _ in range(2)]
    assert fitted.record.settings["regularizer"] == {"strength": 0.3}
    first, second = (epoch.parts["regularizer"] for epoch in fitted.record.epochs)
    assert 0 < first < second
    with pytest.raises(InvalidInput, match=r"settings.regularizer.strength was 0\.3 and is 0\.4"):
        fit(plain(), task(), regularizer=Grown(0.4), checkpoints=tmp_path, **given)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({}, "the objective returned a dict"),
        (torch.tensor(1.0), "the objective returned a Tensor: give at least one named scalar"),
        ({"hint": torch.zeros(3)}, r"the part 'hint' of the loss is \[3\]"),
        ({"hint": 0.5}, "the part 'hint' of the loss is float"),
        ({"regularizer": torch.zeros(())}, "calls one of its parts 'regularizer'"),
    ],
)
def test_what_is_no_loss_is_refused(parts: Any, words: str) -> None:
    class Wrong(Noting):
        def __call__(self, model: nn.Module, call: Call, moment: Moment) -> Any:
            return parts

    with pytest.raises(InvalidInput, match=words):
        fit(plain(), task(), objective=Wrong(), regularizer=lambda m: torch.zeros(()), **ONCE)


def test_a_loss_that_needs_labels_is_refused_without_them() -> None:
    with pytest.raises(InvalidInput, match=r"batch 0 .* has no target, and the task's loss needs"):
        fit(plain(), task(train=[x for x, _ in BATCHES]), **ONCE)
    fit(plain(), task(train=[x for x, _ in BATCHES], loss=lambda o, t: o.square().mean()), **ONCE)


def test_settings_that_no_record_can_hold_are_refused_before_training() -> None:
    class Holding(Noting):
        def settings(self) -> Mapping[str, Any]:
            return {"teacher": plain()}

    noting = Holding()
    with pytest.raises(InvalidInput, match=r"settings of Holding are not plain JSON \(Object of"):
        fit(plain(), task(), objective=noting, **ONCE)
    assert not noting.moments


def test_outputs_in_containers_are_cast_up_for_the_loss() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> dict[str, Any]:
            return {"logits": self.linear(x), "also": (self.linear(x),)}

    seen: list[torch.dtype] = []

    def loss(output: dict[str, Any], target: torch.Tensor) -> torch.Tensor:
        seen.extend([output["logits"].dtype, output["also"][0].dtype])
        return F.cross_entropy(output["logits"], target)

    fit(Both(), task(loss=loss), precision="bfloat16", **ONCE)
    assert set(seen) == {torch.float32}


def test_the_model_given_back_is_free_of_the_training() -> None:
    one = fit(network(), task(), **ONCE).model
    two = fit(one, task(), **ONCE).model
    assert not same(one, two)
    assert all(p.grad is None and not p._backward_hooks for p in one.parameters())

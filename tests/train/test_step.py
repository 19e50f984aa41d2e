"""The step: what every rewrite owes, replay out of a file, and no effect where nothing changes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from burnish.core import Candidate, Choices, model_hash
from burnish.errors import Damaged, InvalidInput, NoEffect
from burnish.goal import Goal
from burnish.recipe import load_history, replay, save_history
from burnish.testing import RewriteContract, Tiny, catalogue
from burnish.train import Precision, Schedule, Train, Tricks, changed_state, load_state
from tests import once
from tests.train.small import network, plain, same, state, task

FEW = ("separable", "gru")


class TestTrain(RewriteContract):
    def step(self) -> Train:
        return Train(1, 0.01, schedule=Schedule("linear", warm_up=0.2), tricks=Tricks(clip=1.0))

    def tinies(self) -> Iterable[Tiny]:
        return [tiny for tiny in catalogue() if tiny.name in FEW]

    def names_in(self, choices: Choices) -> Iterable[str]:
        return {name.rpartition(".")[0] for name in choices.tensors}

    def known_names(self, tiny: Tiny, model: nn.Module) -> set[str]:
        return {name for name, _ in model.named_modules()}


@pytest.mark.slow
class TestTrainEverything(TestTrain):
    def tinies(self) -> Iterable[Tiny]:
        return [tiny for tiny in catalogue() if list(tiny.build().parameters())]


def applied(step: Train, net: nn.Module, **parts: Any) -> Candidate:
    return step.apply(Candidate(net), Goal(task(**parts), seed=4))


def test_it_is_fit_with_the_goal_s_seed() -> None:
    step = Train(2, 0.02, "sgd", "one_cycle", 0.1, "bfloat16", Tricks(ema=0.9))
    fitted = step.fit(network(), task(), seed=4)
    candidate = applied(step, network())
    assert same(candidate.model, fitted.model)
    entry = candidate.history[-1]
    assert entry.step == "Train"
    assert entry.choices.plan == {
        "from": model_hash(network()),
        "epochs": 2,
        "kept": "average",
        "stopped": "all 2 epochs done",
        "loss": sum(fitted.record.epochs[-1].parts.values()),
        "validation": None,
    }


def test_only_what_changed_is_kept() -> None:
    net = network()
    net[0].requires_grad_(False)
    kept = applied(Train(1, 0.02), net).history[-1].choices.tensors
    assert "0.weight" not in kept
    assert {"1.weight", "1.running_mean", "1.num_batches_tracked", "4.bias"} <= kept.keys()


def test_it_replays_out_of_a_file(tmp_path: Path) -> None:
    step = Train(1, 0.02, schedule=Schedule("cosine", warm_up=0.1), precision="float16")
    candidate = applied(step, network())
    save_history(tmp_path, candidate.history)
    again = replay(network(), load_history(tmp_path), {"Train": Train})
    assert same(again, candidate.model)
    entry = load_history(tmp_path)[-1]
    assert Train(**entry.settings) == step
    assert Train(**entry.settings).precision == Precision("float16")


def test_a_history_of_another_model_is_damaged() -> None:
    history = applied(Train(1, 0.02), network()).history
    with pytest.raises(Damaged, match=r"'1.weight' has shape \[16\], and the model has nothing of"):
        replay(plain(), history, {"Train": Train})
    with pytest.raises(Damaged, match=r"'0.weight' has shape \[3\], and the model has shape \[16,"):
        load_state(plain(), {"0.weight": torch.zeros(3)})


def test_nothing_to_train_is_no_effect() -> None:
    frozen = plain().requires_grad_(False)
    with pytest.raises(NoEffect, match="no parameter of the model takes gradients"):
        applied(Train(1, 0.02), frozen)
    with pytest.raises(NoEffect, match="training changed no weight"):
        applied(Train(1, 1e-30, weight_decay=0.0), plain())
    before = plain()
    after = load_state(before, {"0.bias": torch.ones(16)})
    assert changed_state(before, after).keys() == {"0.bias"}
    assert not torch.equal(state(before)["0.bias"], torch.ones(16))


def test_a_traced_model_is_a_candidate_too() -> None:
    tiny = next(tiny for tiny in catalogue() if tiny.name == "separable")
    traced = once.traced(tiny)
    candidate = Train(1, 0.01).apply(Candidate(traced), tiny.goal())
    assert type(candidate.model) is type(traced)
    assert not same(candidate.model, traced)


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 0},
        {"learning_rate": -1.0},
        {"optimizer": "lion"},
        {"schedule": "step"},
        {"precision": "float8"},
        {"tricks": {"clip": -1.0}},
        {"weight_decay": -1.0},
    ],
)
def test_settings_are_checked_when_it_is_made(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        Train(**{"epochs": 1, "learning_rate": 0.1, **settings})

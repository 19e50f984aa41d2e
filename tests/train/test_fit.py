"""Training: it learns, leaves the model alone, repeats itself, and is the textbook's loop."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from burnish.errors import InvalidInput, Unsupported
from burnish.graph import Traced, trace
from burnish.testing import catalogue
from burnish.train import Tricks, evaluate, fit
from tests.train.small import BATCHES, HELD_OUT, X, network, plain, same, state, task


@pytest.mark.parametrize(
    ("optimizer", "learning_rate", "schedule"),
    [
        ("adamw", 0.02, "cosine"),
        ("adamw", 0.02, "linear"),
        ("sgd", 0.1, "one_cycle"),
        ("sgd", 0.1, "constant"),
    ],
)
def test_it_learns(optimizer: str, learning_rate: float, schedule: str) -> None:
    net = network()
    assert evaluate(net, task(), "validation").figure < 0.75
    trained = fit(
        net,
        task(),
        epochs=30,
        learning_rate=learning_rate,
        optimizer=optimizer,
        schedule=schedule,
    ).model
    assert evaluate(trained, task(), "validation").figure > 0.85


@pytest.mark.parametrize("num", [1, 4])
def test_it_is_the_loop_one_would_write(num: int) -> None:
    """Bit for bit, in accumulation over the short last group, too, and with clipping."""
    net, clip = plain(), 0.3
    fitted = fit(
        net,
        task(),
        epochs=2,
        learning_rate=0.1,
        optimizer=lambda groups, lr: torch.optim.SGD(groups, lr=lr, momentum=0.9),
        schedule="linear",
        weight_decay=0.0,
        tricks=Tricks(accumulate=num, clip=clip),
    )
    by_hand = plain()
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.9)
    groups = [BATCHES[i : i + num] for i in range(0, len(BATCHES), num)]
    losses = []
    for step, group in enumerate(groups * 2):
        total = 0.0
        for x, y in group:
            loss = F.cross_entropy(by_hand(x), y)
            (loss / len(group)).backward()
            total += loss.item() / len(group)
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / (2 * len(groups)))
        nn.utils.clip_grad_norm_(by_hand.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    assert same(fitted.model, by_hand)
    assert [loss for epoch in fitted.record.epochs for loss in epoch.losses] == losses


def test_the_model_is_left_alone() -> None:
    net = network()
    net[4].train()
    before, flags = state(net), [module.training for module in net.modules()]
    trained = fit(net, task(), epochs=1, learning_rate=0.01).model
    assert trained is not net
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert [module.training for module in net.modules()] == flags
    assert [module.training for module in trained.modules()] == flags
    assert all(parameter.grad is None for parameter in trained.parameters())
    assert not torch.equal(trained.state_dict()["1.running_mean"], before["1.running_mean"])


def test_the_same_seed_trains_the_same_and_the_caller_s_generators_stay() -> None:
    one = fit(network(), task(), epochs=2, learning_rate=0.01, seed=3).model
    torch.manual_seed(12)
    two = fit(network(), task(), epochs=2, learning_rate=0.01, seed=3).model
    other = fit(network(), task(), epochs=2, learning_rate=0.01, seed=4).model
    assert same(one, two)
    assert not same(one, other), "dropout did not depend on the seed"
    net = network()
    before = [torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()]
    fit(net, task(), epochs=1, learning_rate=0.01)
    after = [torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()]
    assert after == before, "fit() moved a generator that is the caller's"


def test_one_step_of_sgd_is_the_textbook_s() -> None:
    """w - rate * (g + m (g + decay w)), in Nesterov's form with momentum m; biases do not decay."""
    torch.manual_seed(2)
    net = nn.Linear(2, 2)
    trained = fit(
        net,
        task(train=BATCHES[:1]),
        epochs=1,
        learning_rate=0.1,
        optimizer="sgd",
        schedule="constant",
        weight_decay=0.5,
    ).model
    F.cross_entropy(net(BATCHES[0][0]), BATCHES[0][1]).backward()
    assert net.weight.grad is not None
    assert net.bias.grad is not None
    gradient = net.weight.grad + 0.5 * net.weight
    torch.testing.assert_close(trained.weight, net.weight - 0.1 * 1.9 * gradient)
    torch.testing.assert_close(trained.bias, net.bias - 0.1 * 1.9 * net.bias.grad)


def test_frozen_parameters_stay() -> None:
    net = network()
    net[0].weight.requires_grad_(False)
    trained = state(fit(net, task(), epochs=1, learning_rate=0.05).model)
    assert torch.equal(trained["0.weight"], state(net)["0.weight"])
    assert not torch.equal(trained["4.weight"], state(net)["4.weight"])
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(InvalidInput, match="no parameter of the model takes gradients"):
        fit(net, task(), epochs=1, learning_rate=0.05)


class Unsized:
    """A loader that does not know its length, and deals another order each time."""

    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        return iter(BATCHES)


def test_data_without_a_length_is_counted() -> None:
    data = Unsized()
    fit(network(), task(train=data), epochs=2, learning_rate=0.01)
    assert data.passes == 3


def test_it_trains_inside_no_grad() -> None:
    net = network()
    with torch.no_grad():
        trained = fit(net, task(), epochs=1, learning_rate=0.05).model
    assert not torch.equal(state(trained)["0.weight"], state(net)["0.weight"])


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda o, t: F.cross_entropy(o, t, reduction="none"), r"'loss' of the loss is \[16\]"),
        (lambda o, t: 0.5, "'loss' of the loss is float, not a scalar tensor"),
        (lambda o, t: F.cross_entropy(o, t).detach(), r"\(loss\) depends on no parameter"),
    ],
)
def test_a_loss_that_cannot_be_minimised_is_refused(loss: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        fit(network(), task(loss=loss), epochs=1, learning_rate=0.01)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 0}, r"epochs=0\): a whole number, at least 1"),
        ({"learning_rate": 0.0}, r"learning_rate=0.0\): a finite number above 0"),
        ({"learning_rate": float("inf")}, "a finite number above 0"),
        ({"weight_decay": -1.0}, "0 or more"),
        ({"seed": -1}, r"seed=-1\): a whole number"),
        ({"epochs": 1.5}, "a whole number"),
        ({"optimizer": "lion"}, r"optimizer='lion'\): one of adamw, sgd"),
        ({"schedule": "step"}, r"Schedule\('step'\): one of constant, cosine, linear, one_cycle"),
        ({"schedule": 3}, "schedule=…\\) is a int"),
        ({"precision": "float8"}, r"Precision\('float8'\): one of bfloat16, float16, float32"),
        ({"precision": torch.float16}, "precision is a dtype"),
        ({"tricks": 0.9}, "tricks is a float: give a burnish.train.Tricks"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        fit(network(), task(), **{"epochs": 1, "learning_rate": 0.01, **settings})


def test_what_is_missing_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"needs a loss: give Task\(loss="):
        fit(network(), task(loss=None), epochs=1, learning_rate=0.01)
    with pytest.raises(InvalidInput, match=r"give Task\(train=…\)"):
        fit(network(), task(train=None), epochs=1, learning_rate=0.01)
    with pytest.raises(InvalidInput, match="the train data is empty"):
        fit(network(), task(train=[]), epochs=1, learning_rate=0.01)


def test_progress_is_watched_epoch_by_epoch() -> None:
    titles: list[str] = []

    def watch(items: Iterable[Any], title: str) -> Iterable[Any]:
        titles.append(f"{title}: {len(list(items))}")
        return items

    fit(network(), task(), epochs=2, learning_rate=0.01, watch=watch)
    assert titles == ["training, epoch 1 of 2: 6", "training, epoch 2 of 2: 6"]


def test_every_kind_of_call_trains() -> None:
    """Keywords, several inputs, time first: as the task takes batches apart."""
    for name in ("encoder", "two_inputs", "gru", "dict_output"):
        tiny = next(tiny for tiny in catalogue() if tiny.name == name)
        goal, net = tiny.goal(), tiny.build()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.mul_(0.7)
        trained = fit(net, goal.task, epochs=5, learning_rate=0.01, weight_decay=0.0).model
        before = evaluate(net, goal.task, "train").figure
        assert evaluate(trained, goal.task, "train").figure < 0.8 * before, name


def test_train_data_that_is_test_data_is_refused() -> None:
    shuffled = [(x.flip(0), y.flip(0)) for x, y in reversed(BATCHES)]
    with pytest.raises(InvalidInput, match=r"16 of the 16 samples .* also in the test data"):
        fit(network(), task(test=shuffled), epochs=1, learning_rate=0.01)
    loader: DataLoader[Any] = DataLoader(TensorDataset(*HELD_OUT[0]))  # draws a seed
    looked = fit(network(), task(test=loader), epochs=1, learning_rate=0.01)
    assert same(looked.model, fit(network(), task(), epochs=1, learning_rate=0.01).model)
    chooses: dict[str, Any] = {"epochs": 1, "learning_rate": 0.01, "tricks": Tricks(patience=1)}
    with pytest.raises(InvalidInput, match="also in the validation data"):
        fit(network(), task(validation=BATCHES), **chooses)


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    net = plain()
    net.__dict__["lock"] = threading.Lock()
    with pytest.raises(Unsupported, match=r"cannot be copied \(TypeError"):
        fit(net, task(), epochs=1, learning_rate=0.01)


def test_a_graph_trains_as_its_module() -> None:
    net = network(0.0)
    traced = trace(net, (X[:2],))
    settings: dict[str, Any] = {
        "epochs": 2,
        "learning_rate": 0.02,
        "tricks": Tricks(ema=0.9, patience=5),
    }
    eager, graph = fit(net, task(), **settings), fit(traced, task(), **settings)
    assert isinstance(graph.model, Traced)
    assert not graph.model.training
    assert [e.losses for e in graph.record.epochs] == [e.losses for e in eager.record.epochs]
    assert [e.validation for e in graph.record.epochs] == [
        e.validation for e in eager.record.epochs
    ]
    assert torch.equal(graph.model(X), eager.model(X))
    assert torch.equal(traced(X), net(X)), "the graph it was given was trained"


def test_a_graph_traced_in_train_mode_keeps_its_dropout() -> None:
    traced = trace(network(0.5), (X[:2],), training=True)
    settings: dict[str, Any] = {
        "epochs": 1,
        "learning_rate": 0.02,
        "tricks": Tricks(label_smoothing=0.1),
    }
    eager, graph = fit(network(0.5), task(), **settings), fit(traced, task(), **settings)
    assert graph.record.epochs[0].losses == eager.record.epochs[0].losses
    assert isinstance(graph.model, Traced)
    assert graph.model.training

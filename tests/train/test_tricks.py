"""Averaging, label smoothing, mixup, early stopping: each against what one would write by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from burnish.errors import InvalidInput
from burnish.goal import Inputs, Task
from burnish.metrics import Metric, top1
from burnish.train import Tricks, fit
from tests.train.small import BATCHES, HELD_OUT, X, network, plain, same, state, task

PLAIN: dict[str, Any] = {
    "learning_rate": 0.1,
    "optimizer": torch.optim.SGD,
    "schedule": "constant",
    "weight_decay": 0.0,
}


def by_hand(net: nn.Module, batches: list[Any], loss: Any) -> list[dict[str, torch.Tensor]]:
    """The network after each plain step, in train mode."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    after = []
    for index, (x, y) in enumerate(batches):
        optimizer.zero_grad()
        loss(net, x, y, index).backward()
        optimizer.step()
        after.append(state(net))
    return after


def entropy(net: nn.Module, x: torch.Tensor, y: torch.Tensor, index: int) -> torch.Tensor:
    return F.cross_entropy(net(x), y)


def test_the_average_is_its_recursion() -> None:
    """mean += (1 - d)(weights - mean), d at most (1 + n)/(10 + n); statistics along with it."""
    fitted = fit(network(0.0), task(), epochs=1, tricks=Tricks(ema=0.9), **PLAIN)
    net = network(0.0)
    mean = {name: t.double() for name, t in state(net).items()}
    for number, weights in enumerate(by_hand(net.train(), BATCHES, entropy), start=1):
        decay = min(0.9, (1 + number) / (10 + number))
        for name, tensor in weights.items():
            mean[name] = decay * mean[name] + (1 - decay) * tensor.double()
    assert fitted.record.kept == "average"
    got = fitted.model.state_dict()
    for name in ("0.weight", "1.running_var", "4.bias"):
        torch.testing.assert_close(got[name].double(), mean[name], rtol=1e-5, atol=1e-6)
    assert int(got["1.num_batches_tracked"]) == len(BATCHES), "a counter is no average"


def test_label_smoothing_is_torch_s() -> None:
    def smoothed(net: nn.Module, x: torch.Tensor, y: torch.Tensor, index: int) -> torch.Tensor:
        return F.cross_entropy(net(x), y, label_smoothing=0.2)

    fitted = fit(plain(), task(), epochs=1, tricks=Tricks(label_smoothing=0.2), **PLAIN)
    wanted = by_hand(plain(), BATCHES, smoothed)[-1]
    for name, tensor in fitted.model.state_dict().items():
        torch.testing.assert_close(tensor, wanted[name])


def test_mixup_mixes_inputs_and_losses_alike() -> None:
    """λ of the loss with one's own target, 1 - λ of that with the partner's."""

    def mixed(net: nn.Module, x: torch.Tensor, y: torch.Tensor, index: int) -> torch.Tensor:
        drawn = np.random.default_rng([5, 0, index])
        share, order = drawn.beta(0.4, 0.4), torch.from_numpy(drawn.permutation(len(y)))
        output = net(share * x + (1 - share) * x[order])
        own, partner = F.cross_entropy(output, y), F.cross_entropy(output, y[order])
        return share * own + (1 - share) * partner

    fitted = fit(plain(), task(), epochs=1, seed=5, tricks=Tricks(mixup=0.4), **PLAIN)
    wanted = by_hand(plain(), BATCHES, mixed)[-1]
    for name, tensor in fitted.model.state_dict().items():
        torch.testing.assert_close(tensor, wanted[name])


def test_mixup_mixes_along_the_batch_axis_only() -> None:
    """Time first, and a second input that no sample owns."""

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)
            self.seen: list[torch.Tensor] = []

        def forward(self, x: torch.Tensor, scale: torch.Tensor) -> Any:
            self.seen.append(x)
            return self.linear(x.mean(0) * scale)

    x = torch.arange(2 * 4 * 3.0).reshape(2, 4, 3)
    batches = [((x, torch.tensor([2.0])), torch.tensor([0, 1, 0, 1]))]
    inputs = Inputs((x, torch.tensor([2.0])), batch_axis={"0": 1, "1": None})
    mixing = Task(inputs, top1, train=batches, loss=F.cross_entropy, unpack=lambda batch: batch)
    fitted = fit(Sum(), mixing, epochs=1, tricks=Tricks(mixup=1.0), **PLAIN)
    assert isinstance(fitted.model, Sum)
    drawn = np.random.default_rng([0, 0, 0])
    share, order = drawn.beta(1.0, 1.0), torch.from_numpy(drawn.permutation(4))
    torch.testing.assert_close(fitted.model.seen[-1], share * x + (1 - share) * x[:, order])


@pytest.mark.parametrize("tricks", [Tricks(label_smoothing=0.1), Tricks(mixup=0.2)], ids=str)
def test_a_loss_that_takes_no_probabilities_is_refused(tricks: Tricks) -> None:
    def refused(words: str, **parts: Any) -> None:
        with pytest.raises(InvalidInput, match=words):
            fit(plain(), task(**parts), epochs=1, tricks=tricks, **PLAIN)

    weights = torch.tensor([1.0, 3.0])
    refused("takes probabilities", loss=lambda o, t: F.nll_loss(o.log_softmax(1), t))
    refused("takes probabilities", loss=lambda o, t: F.cross_entropy(o, t, weight=weights))
    refused("takes probabilities", loss=lambda o, t: F.cross_entropy(o, t) ** 2)
    unlabelled = [(x, torch.where(y > 0, y, -100)) for x, y in BATCHES]
    refused("a class for every target, and one is -100", train=unlabelled)
    regression = [(x, y.float()) for x, y in BATCHES]
    mse = lambda o, t: F.mse_loss(o[:, 0], t)  # noqa: E731
    refused("class indices, an integer tensor .* torch.float32 tensors", train=regression, loss=mse)
    refused("they are NoneType", train=[x for x, _ in BATCHES], loss=lambda o, t: o.mean())


def test_inputs_that_cannot_be_mixed_are_refused() -> None:
    words = torch.randint(0, 5, (8, 3), generator=torch.Generator().manual_seed(0))
    net = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 2))
    labels = torch.tensor([0, 1] * 4)
    reading = Task(Inputs(words[:2]), top1, train=[(words, labels)], loss=F.cross_entropy)
    with pytest.raises(InvalidInput, match=r"input '0' is torch\.int64: only floating"):
        fit(net, reading, epochs=1, tricks=Tricks(mixup=0.2), **PLAIN)
    fit(net, reading, epochs=1, tricks=Tricks(label_smoothing=0.2), **PLAIN)


class Falling:
    """A metric whose figure over the epochs is written down beforehand."""

    def __init__(self, figures: list[float]) -> None:
        self.figures = iter(figures)

    def __call__(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.full((len(target),), next(self.figures))


@pytest.mark.parametrize(
    ("figures", "better", "best", "epochs"),
    [
        ([0.5, 0.7, 0.6, 0.7, 0.9], True, 1, 4),  # as good is not better
        ([0.5, 0.7, 0.6, 0.8, 0.9], True, 4, 5),
        ([0.5, 0.7, 0.4, 0.6, 0.9], False, 2, 5),
        ([0.5, 0.7, 0.6, 0.4, 0.9], False, 0, 3),
    ],
)
def test_patience_gives_back_the_best_epoch(
    figures: list[float], better: bool, best: int, epochs: int
) -> None:
    metric = Metric("written", Falling(figures), "continuous", higher_is_better=better)
    stopping = Task(Inputs(X[:2]), metric, train=BATCHES, validation=HELD_OUT, loss=F.cross_entropy)
    fitted = fit(plain(), stopping, epochs=5, tricks=Tricks(patience=2), **PLAIN)
    record = fitted.record
    assert record.kept == "best"
    assert [epoch.validation for epoch in record.epochs] == pytest.approx(figures[:epochs])
    early = f"no better validation score in 2 epochs after epoch {best + 1}"
    assert record.stopped == (early if epochs < 5 else "all 5 epochs done")
    wanted = by_hand(plain(), BATCHES * (best + 1), entropy)[-1]
    assert all(torch.equal(t, wanted[name]) for name, t in fitted.model.state_dict().items())


def test_validation_scores_the_average_where_there_is_one() -> None:
    tricks = Tricks(patience=5, ema=0.9)
    fitted = fit(network(0.0), task(), epochs=2, tricks=tricks, **PLAIN)
    only = fit(network(0.0), task(), epochs=2, tricks=Tricks(ema=0.9), **PLAIN)
    figures = [epoch.validation for epoch in fitted.record.epochs]
    assert figures[0] is not None
    assert figures[1] is not None
    if figures[1] > figures[0]:
        assert same(fitted.model, only.model), "the best epoch's weights are not the average's"
    assert [e.losses for e in fitted.record.epochs] == [e.losses for e in only.record.epochs]


def test_patience_needs_validation_data() -> None:
    with pytest.raises(InvalidInput, match=r"needs validation data"):
        fit(plain(), task(validation=None), epochs=1, tricks=Tricks(patience=1), **PLAIN)


def test_zeros_stay_zero_where_asked() -> None:
    net = plain()
    net.state_dict()["0.weight"][:8] = 0.0
    kept = fit(net, task(), epochs=2, learning_rate=0.05, tricks=Tricks(keep_zeros=True)).model
    free = fit(net, task(), epochs=2, learning_rate=0.05).model
    assert int((kept.state_dict()["0.weight"] == 0).sum()) == 16
    assert int((free.state_dict()["0.weight"] == 0).sum()) == 0
    assert isinstance(kept, nn.Sequential)
    kept(X).sum().backward()
    gradient = dict(kept.named_parameters())["0.weight"].grad
    assert gradient is not None
    assert bool((gradient[:8] != 0).any()), "the trained model still holds its zeros"


@pytest.mark.parametrize(
    "settings",
    [
        {"accumulate": 0},
        {"accumulate": 1.5},
        {"clip": 0.0},
        {"clip": float("nan")},
        {"ema": 1.0},
        {"ema": 0.0},
        {"label_smoothing": 1.0},
        {"label_smoothing": -0.1},
        {"mixup": -1.0},
        {"mixup": float("inf")},
        {"patience": 0},
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, Any]) -> None:
    name, value = next(iter(settings.items()))
    with pytest.raises(InvalidInput, match=rf"Tricks\({name}={value}\)"):
        Tricks(**settings)

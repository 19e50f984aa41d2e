"""Training: it learns, leaves the model alone, repeats itself, and stops at the first NaN."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from burnish.errors import InvalidInput, Unsupported
from burnish.goal import Inputs, Task
from burnish.metrics import top1
from burnish.testing import catalogue
from burnish.train import evaluate, fit

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(96, 2, generator=GENERATOR)
Y = (X[:, 0] * X[:, 1] > 0).long()  # no line separates these
BATCHES = [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 96, 16)]
EXAMPLE = Inputs(X[:2])


def model() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2)
    ).eval()


def task(**changes: Any) -> Task:
    parts = {"train": BATCHES, "validation": BATCHES, "loss": F.cross_entropy, **changes}
    return Task(EXAMPLE, top1, **parts)


def state(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


@pytest.mark.parametrize(
    ("optimizer", "learning_rate"), [("adamw", 0.02), ("sgd", 0.1)], ids=["adamw", "sgd"]
)
@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "constant"])
def test_it_learns(optimizer: str, learning_rate: float, schedule: str) -> None:
    net = model()
    assert evaluate(net, task(), "validation").figure < 0.75
    trained = fit(
        net,
        task(),
        epochs=30,
        learning_rate=learning_rate,
        optimizer=optimizer,
        schedule=schedule,
    )
    assert evaluate(trained, task(), "validation").figure > 0.88


def test_the_model_is_left_alone() -> None:
    net = model()
    net[4].train()
    before, flags = state(net), [module.training for module in net.modules()]
    trained = fit(net, task(), epochs=1, learning_rate=0.01)
    assert trained is not net
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert [module.training for module in net.modules()] == flags
    assert [module.training for module in trained.modules()] == flags
    assert all(parameter.grad is None for parameter in trained.parameters())
    assert not torch.equal(trained.state_dict()["1.running_mean"], before["1.running_mean"])


def test_the_same_seed_trains_the_same_and_the_caller_s_generator_stays() -> None:
    one = fit(model(), task(), epochs=2, learning_rate=0.01, seed=3)
    torch.manual_seed(12)
    two = fit(model(), task(), epochs=2, learning_rate=0.01, seed=3)
    other = fit(model(), task(), epochs=2, learning_rate=0.01, seed=4)
    assert all(torch.equal(tensor, two.state_dict()[n]) for n, tensor in one.state_dict().items())
    assert not torch.equal(state(one)["0.weight"], state(other)["0.weight"]), (
        "dropout did not depend on the seed"
    )
    net = model()
    before = torch.get_rng_state()
    fit(net, task(), epochs=1, learning_rate=0.01)
    assert torch.equal(torch.get_rng_state(), before), "fit() moved torch's generator"


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        ("constant", [0.1] * 4),
        ("cosine", [0.1, 0.0853553, 0.05, 0.0146447]),
        ("one_cycle", [0.004, 0.084, 0.0811745, 0.0283058]),
    ],
)
def test_schedules(monkeypatch: pytest.MonkeyPatch, schedule: str, wanted: list[float]) -> None:
    """Rates at 0, 1/4, 1/2 and 3/4 of training; SGD without momentum's memory shows each."""
    rates: list[float] = []
    step = torch.optim.SGD.step

    def spy(self: Any, closure: Any = None) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, closure)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    fit(
        model(),
        task(train=BATCHES[:2]),
        epochs=2,
        learning_rate=0.1,
        optimizer="sgd",
        schedule=schedule,
    )
    assert rates == pytest.approx(wanted, abs=1e-6)


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
    )
    F.cross_entropy(net(BATCHES[0][0]), BATCHES[0][1]).backward()
    assert net.weight.grad is not None
    assert net.bias.grad is not None
    gradient = net.weight.grad + 0.5 * net.weight
    torch.testing.assert_close(trained.weight, net.weight - 0.1 * 1.9 * gradient)
    torch.testing.assert_close(trained.bias, net.bias - 0.1 * 1.9 * net.bias.grad)


def test_frozen_parameters_stay() -> None:
    net = model()
    net[0].weight.requires_grad_(False)
    trained = state(fit(net, task(), epochs=1, learning_rate=0.05))
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
    fit(model(), task(train=data), epochs=2, learning_rate=0.01)
    assert data.passes == 3


def test_it_trains_inside_no_grad() -> None:
    net = model()
    with torch.no_grad():
        trained = fit(net, task(), epochs=1, learning_rate=0.05)
    assert not torch.equal(state(trained)["0.weight"], state(net)["0.weight"])


def test_a_loss_that_is_not_finite_names_the_step() -> None:
    poisoned = [*BATCHES[:4], (BATCHES[4][0] * float("nan"), BATCHES[4][1]), BATCHES[5]]
    with pytest.raises(InvalidInput, match=r"loss is nan at step 4 \(epoch 1, batch 4\): lower"):
        fit(model(), task(train=poisoned), epochs=1, learning_rate=0.01)

    def explodes(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(output, target) * float("inf")

    with pytest.raises(InvalidInput, match="loss is inf at step 0"):
        fit(model(), task(loss=explodes), epochs=1, learning_rate=0.01)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda o, t: F.cross_entropy(o, t, reduction="none"), r"is \[16\], not a scalar tensor"),
        (lambda o, t: 0.5, "is float, not a scalar tensor"),
    ],
)
def test_a_loss_that_is_no_scalar_is_refused(loss: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        fit(model(), task(loss=loss), epochs=1, learning_rate=0.01)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 0}, r"epochs=0\): at least 1"),
        ({"learning_rate": 0.0}, r"learning_rate=0.0\): a finite number above 0"),
        ({"learning_rate": float("inf")}, "a finite number above 0"),
        ({"weight_decay": -1.0}, "0 or more"),
        ({"optimizer": "lion"}, r"optimizer='lion'\): one of adamw, sgd"),
        ({"schedule": "linear"}, r"schedule='linear'\): one of constant, cosine, one_cycle"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        fit(model(), task(), **{"epochs": 1, "learning_rate": 0.01, **settings})


def test_what_is_missing_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"needs a loss: give Task\(loss="):
        fit(model(), task(loss=None), epochs=1, learning_rate=0.01)
    with pytest.raises(InvalidInput, match=r"give Task\(train=…\)"):
        fit(model(), task(train=None), epochs=1, learning_rate=0.01)
    with pytest.raises(InvalidInput, match="the train data is empty"):
        fit(model(), task(train=[]), epochs=1, learning_rate=0.01)


def test_a_traced_model_is_refused() -> None:
    tiny = next(tiny for tiny in catalogue() if tiny.name == "shared_module")
    with pytest.raises(Unsupported, match="train first and trace afterwards"):
        fit(tiny.trace(), tiny.goal().task, epochs=1, learning_rate=0.01)


def test_progress_is_watched_epoch_by_epoch() -> None:
    titles: list[str] = []

    def watch(items: Iterable[Any], title: str) -> Iterable[Any]:
        titles.append(f"{title}: {len(list(items))}")
        return items

    fit(model(), task(), epochs=2, learning_rate=0.01, watch=watch)
    assert titles == ["training, epoch 1 of 2: 6", "training, epoch 2 of 2: 6"]


def test_every_kind_of_call_trains() -> None:
    """Keywords, several inputs, time first: as the task takes batches apart."""
    for name in ("encoder", "two_inputs", "gru", "dict_output"):
        tiny = next(tiny for tiny in catalogue() if tiny.name == name)
        goal, net = tiny.goal(), tiny.build()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.mul_(0.7)
        trained = fit(net, goal.task, epochs=5, learning_rate=0.01, weight_decay=0.0)
        before = evaluate(net, goal.task, "train").figure
        assert evaluate(trained, goal.task, "train").figure < 0.8 * before, name

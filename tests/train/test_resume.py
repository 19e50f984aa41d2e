"""Checkpoints: a training taken up again computes what an uninterrupted one does, bit for bit."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from burnish.errors import Damaged, InvalidInput
from burnish.goal import Call
from burnish.train import Fitted, Moment, Precision, Tricks, fit
from tests.train.small import BATCHES, X, Y, network, plain, same, task


class Stop(Exception):
    """What a power cut would be."""


class Cut:
    """Watches a training and ends it at the beginning of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def __call__(self, items: Any, title: str) -> Any:
        if title.startswith(f"training, epoch {self.epoch + 1} "):
            raise Stop
        return items


def shuffled() -> DataLoader[Any]:
    return DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True)


def own_generator() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(7)
    return DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True, generator=generator)


class Noisy:
    """Draws from numpy's and random's global generators."""

    def __len__(self) -> int:
        return len(BATCHES)

    def __iter__(self) -> Iterator[Any]:
        for x, y in random.sample(BATCHES, len(BATCHES)):
            yield x + 0.1 * torch.from_numpy(np.random.randn(*x.shape)).float(), y


class Numbered:
    """Another order each epoch, by the epoch's number."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(BATCHES)

    def __iter__(self) -> Iterator[Any]:
        return iter(BATCHES[self.epoch :] + BATCHES[: self.epoch])


class Growing:
    """A penalty that follows the steps."""

    def at(self, progress: float) -> Callable[[nn.Module], torch.Tensor]:
        return lambda model: progress * next(model.parameters()).square().sum()

    def settings(self) -> dict[str, Any]:
        return {}


SETTINGS: dict[str, dict[str, Any]] = {
    "adamw": {},
    "sgd": {"optimizer": "sgd", "schedule": "one_cycle"},
    "torch's scheduler": {
        "schedule": lambda optimizer, steps: torch.optim.lr_scheduler.SequentialLR(
            optimizer,
            [
                torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3),
                torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
            ],
            [3],
        )
    },
    "tricks": {"tricks": Tricks(accumulate=4, clip=0.5, ema=0.9, mixup=0.2, patience=9)},
    "float16": {"precision": Precision("float16", 2.0**20, 5)},
    "bfloat16": {"precision": "bfloat16"},
    "growing penalty": {"regularizer": Growing()},
}


def resumed(folder: Path, make: Any, cut: int = 2, **settings: Any) -> tuple[Fitted, Fitted]:
    """A training of four epochs, and one that was cut off and taken up again."""
    given: dict[str, Any] = {"epochs": 4, "learning_rate": 0.02, "checkpoints": folder, **settings}
    whole = fit(network(), task(train=make()), **{**given, "checkpoints": None})
    with pytest.raises(Stop):
        fit(network(), task(train=make()), watch=Cut(cut), **given)
    torch.manual_seed(99)
    return whole, fit(network(), task(train=make()), **given)


def assert_the_same(whole: Fitted, again: Fitted) -> None:
    assert [e.losses for e in again.record.epochs] == [e.losses for e in whole.record.epochs]
    assert [e.validation for e in again.record.epochs] == [
        e.validation for e in whole.record.epochs
    ]
    assert again.record.skipped == whole.record.skipped
    assert same(again.model, whole.model)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_whatever_the_settings(tmp_path: Path, settings: dict[str, Any]) -> None:
    assert_the_same(*resumed(tmp_path, shuffled, **settings))


@pytest.mark.parametrize("make", [own_generator, Noisy, Numbered])
def test_whatever_the_data_draws_from(tmp_path: Path, make: Any) -> None:
    whole, again = resumed(tmp_path, make)
    assert_the_same(whole, again)
    first, second = whole.record.epochs[:2]
    assert first.losses != second.losses


def test_the_order_changes_from_epoch_to_epoch_and_with_the_seed() -> None:
    orders: list[list[int]] = []

    class Looking(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            orders.append([int((row == X).all(1).nonzero()[0]) for row in x])
            return super().forward(x)

    for seed in (0, 0, 1):
        fit(Looking(2, 2), task(train=shuffled()), epochs=2, learning_rate=0.01, seed=seed)
    epochs = [list(itertools.chain(*orders[i : i + 6])) for i in range(0, len(orders), 6)]
    assert all(sorted(epoch) == list(range(96)) for epoch in epochs)
    assert epochs[:2] == epochs[2:4]
    assert len({tuple(epoch) for epoch in epochs}) == 4


class Adapting:
    """An objective with a module of its own, and a counter in it that no gradient moves."""

    def __init__(self, weight: float = 1.0) -> None:
        torch.manual_seed(5)
        self.adapter = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        self.weight = weight

    def modules(self) -> nn.Module:
        return self.adapter

    def settings(self) -> Mapping[str, Any]:
        return {"weight": self.weight}

    def __call__(self, model: nn.Module, call: Call, moment: Moment) -> Mapping[str, torch.Tensor]:
        output = self.adapter(model(*call.args))
        return {"loss": self.weight * nn.functional.cross_entropy(output, call.target)}


def test_the_objective_s_modules_are_part_of_it(tmp_path: Path) -> None:
    given: dict[str, Any] = {"epochs": 3, "learning_rate": 0.02}
    whole = Adapting()
    model = fit(plain(), task(), objective=whole, **given).model
    with pytest.raises(Stop):
        fit(plain(), task(), objective=Adapting(), watch=Cut(1), checkpoints=tmp_path, **given)
    again = Adapting()
    assert same(fit(plain(), task(), objective=again, checkpoints=tmp_path, **given).model, model)
    assert same(again.adapter, whole.adapter)
    assert not same(again.adapter, Adapting().adapter)


def test_a_finished_training_is_given_back_at_once(tmp_path: Path) -> None:
    given: dict[str, Any] = {"epochs": 2, "learning_rate": 0.02, "checkpoints": tmp_path}
    one = fit(network(), task(), **given)
    two = fit(network(), task(), watch=Cut(0), **given)
    assert_the_same(one, two)
    assert two.record == one.record


def test_patience_that_ran_out_stays_so(tmp_path: Path) -> None:
    given: dict[str, Any] = {"epochs": 9, "learning_rate": 1e-9, "tricks": Tricks(patience=1)}
    one = fit(plain(), task(), checkpoints=tmp_path, **given)
    assert len(one.record.epochs) == 2
    two = fit(plain(), task(), checkpoints=tmp_path, **given)
    assert two.record == one.record


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learning_rate": 0.1}, "settings.learning_rate was 0.02 and is 0.1"),
        ({"epochs": 4}, "settings.epochs was 3 and is 4"),
        ({"seed": 1}, "settings.seed was 0 and is 1"),
        ({"tricks": Tricks(ema=0.9)}, "settings.tricks.ema was None and is 0.9"),
        ({"regularizer": lambda m: m[0].weight.sum()}, "settings.regularizer was None and is '"),
        ({"model": plain()}, "model was '"),
        ({"train": BATCHES[:4]}, "batches was 6 and is 4"),
        ({"objective": Adapting(0.5)}, r"settings.objective.loss was 'cross_entropy' and is None"),
    ],
    ids=str,
)
def test_another_run_s_checkpoint_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    given: dict[str, Any] = {"epochs": 3, "learning_rate": 0.02, "checkpoints": tmp_path}
    fit(network(), task(), **given)
    changed = {"model": network(), "train": BATCHES, **given, **changes}
    model, train = changed.pop("model"), changed.pop("train")
    with pytest.raises(InvalidInput, match=rf"belongs to another run \(.*{words}"):
        fit(model, task(train=train), **changed)


@pytest.mark.parametrize("content", [b"", b"not an archive", None], ids=["empty", "text", "cut"])
def test_a_checkpoint_that_does_not_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    given: dict[str, Any] = {"epochs": 1, "learning_rate": 0.02, "checkpoints": tmp_path}
    fit(plain(), task(), **given)
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[:900] if content is None else content)
    with pytest.raises(Damaged, match=r"checkpoint\.pt does not read"):
        fit(plain(), task(), **given)


class Gadget:
    """Would run code when it is unpickled."""

    def __reduce__(self) -> Any:
        return (print, ("this was executed",))


def test_a_checkpoint_runs_no_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"schema": 1, "identity": Gadget()}, tmp_path / "checkpoint.pt")
    with pytest.raises(Damaged, match="tensors and plain values"):
        fit(plain(), task(), epochs=1, learning_rate=0.02, checkpoints=tmp_path)
    assert "executed" not in capsys.readouterr().out


def test_its_weights_are_the_model_s(tmp_path: Path) -> None:
    fitted = fit(plain(), task(), epochs=1, learning_rate=0.02, checkpoints=tmp_path / "a" / "b")
    state = torch.load(tmp_path / "a" / "b" / "checkpoint.pt", weights_only=True)
    assert state["model"].keys() == fitted.model.state_dict().keys()
    assert all(torch.equal(t, state["model"][n]) for n, t in fitted.model.state_dict().items())


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    with pytest.raises(InvalidInput, match=r"checkpoints='.*file/inside'"):
        fit(plain(), task(), epochs=1, learning_rate=0.02, checkpoints=tmp_path / "file" / "inside")

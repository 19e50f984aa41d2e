"""The record: what it says of a training, and its way through a file."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import torch

from burnish.errors import Damaged
from burnish.train import EpochRecord, Schedule, TrainingRecord, Tricks, fit
from tests.train.small import network, plain, task


def test_it_says_what_was_done() -> None:
    fitted = fit(
        network(),
        task(),
        epochs=2,
        learning_rate=0.02,
        optimizer=functools.partial(torch.optim.SGD, momentum=0.5),
        schedule=Schedule("cosine", warm_up=0.25),
        tricks=Tricks(clip=1.0, patience=5),
        seed=3,
    )
    record = fitted.record
    assert record.settings == {
        "epochs": 2,
        "learning_rate": 0.02,
        "optimizer": "SGD(momentum=0.5)",
        "schedule": {"kind": "cosine", "start": 1.0, "end": 0.0, "warm_up": 0.25},
        "weight_decay": 0.01,
        "precision": {
            "dtype": "float32",
            "initial_scale": 65536.0,
            "growth_interval": 2000,
        },
        "tricks": {
            "accumulate": 1,
            "clip": 1.0,
            "ema": None,
            "label_smoothing": 0.0,
            "mixup": 0.0,
            "patience": 5,
            "keep_zeros": False,
        },
        "seed": 3,
        "objective": {"loss": "cross_entropy"},
        "regularizer": None,
    }
    assert record.num_parameters == sum(p.numel() for p in network().parameters())
    assert (record.num_processes, record.device) == (1, "cpu")
    assert (record.kept, record.stopped) == ("best", "all 2 epochs done")
    assert (record.num_steps, record.skipped) == (12, 0)
    assert [epoch.epoch for epoch in record.epochs] == [0, 1]
    assert record.seconds == sum(epoch.seconds for epoch in record.epochs) > 0
    for epoch in record.epochs:
        assert epoch.parts == pytest.approx({"loss": sum(epoch.losses) / 6})
        assert epoch.gradient_norm is not None
        assert epoch.gradient_norm > 0
        assert epoch.validation is not None


def test_it_comes_back_from_a_file_bit_for_bit(tmp_path: Path) -> None:
    record = fit(network(), task(), epochs=2, learning_rate=0.02).record
    record.save(tmp_path / "record.json")
    assert TrainingRecord.load(tmp_path / "record.json") == record
    data = json.loads((tmp_path / "record.json").read_text())
    assert data["epochs"][1]["losses"] == list(record.epochs[1].losses)


@pytest.mark.parametrize("change", [{"schema": 2}, {"kept": None, "more": 1}])
def test_what_is_no_record_is_damaged(change: dict[str, object]) -> None:
    record = fit(plain(), task(), epochs=1, learning_rate=0.02).record
    with pytest.raises(Damaged, match="training record"):
        TrainingRecord.from_json({**record.to_json(), **change})


def test_a_file_that_does_not_read_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text('{"schema": 1')
    with pytest.raises(Damaged, match=r"record\.json does not read"):
        TrainingRecord.load(tmp_path / "record.json")
    with pytest.raises(Damaged, match=r"none\.json does not read"):
        TrainingRecord.load(tmp_path / "none.json")


def test_epochs_are_values() -> None:
    one = EpochRecord(0, (1.0,), {"loss": 1.0}, (0.1, 0.1), 0.5)
    assert one == EpochRecord(0, (1.0,), {"loss": 1.0}, (0.1, 0.1), 0.5)

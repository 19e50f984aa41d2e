"""The demo: a network that learns, a goal that stands, and a run like any other."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from burnish.demo import _demo, build, demo
from burnish.demo._digits import load_digits
from burnish.demo._network import DigitNet
from burnish.train import evaluate


@pytest.fixture
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train for two passes over a tenth of the digits: enough to see what depends on what."""
    train, validation, test = load_digits()
    parts = (train.first(300), validation, test)
    monkeypatch.setattr(_demo, "load_digits", lambda: parts)
    monkeypatch.setattr(_demo, "EPOCHS", 2)


@dataclass
class FakeResult:
    """What `optimize` was given, and what became of the result."""

    model: nn.Module
    goal: Any
    settings: dict[str, Any]
    run_folder: Path
    saved: list[Path] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        (folder / "bundle").mkdir(parents=True)
        (folder / "report.html").write_text("<html>")
        self.saved.append(folder)

    def __str__(self) -> str:
        return "the table [and why]"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[FakeResult]:
    """`optimize` replaced by something that only takes notes."""
    seen: list[FakeResult] = []

    def optimize(model: nn.Module, goal: Any, **settings: Any) -> FakeResult:
        seen.append(FakeResult(model, goal, settings, settings["run_folder"]))
        return seen[-1]

    monkeypatch.setattr(_demo, "optimize", optimize)
    return seen


def test_build_gives_a_trained_model_and_a_usable_goal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_demo, "EPOCHS", 1)
    threads = torch.get_num_threads()
    state = torch.get_rng_state()
    model, goal = build()
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in model.modules())
    assert evaluate(model, goal.task, "validation").figure > 0.7  # chance is 0.1
    counted = {census.split: census.num_samples for census in goal.census()}
    assert counted == {"calibration": 256, "validation": 1000, "test": 1000}
    assert goal.task.inputs.batch_size() == goal.target.batch


@pytest.mark.usefixtures("briefly")
def test_build_repeats_itself_by_seed_on_any_number_of_threads() -> None:
    def state(seed: int) -> dict[str, torch.Tensor]:
        return build(seed)[0].state_dict()

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = state(1)
        torch.set_num_threads(2)
        again, other = state(1), state(2)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(tensor, again[name]) for name, tensor in one.items())
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])


def test_the_network_is_wide_enough_to_gain_from_int8() -> None:
    macs = 0

    def count(module: nn.Module, args: Any, output: torch.Tensor) -> None:
        nonlocal macs
        if isinstance(module, nn.Conv2d):
            macs += output[0].numel() * module.weight[0].numel()

    model = DigitNet().eval()
    for module in model.modules():
        module.register_forward_hook(count)
    assert model(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
    assert 5e6 < macs < 8e6


@pytest.mark.usefixtures("briefly")
def test_demo_runs_like_any_other(
    fake: list[FakeResult], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result: Any = demo(tmp_path / "out")
    assert result is fake[0]
    assert fake[0].saved == [tmp_path / "out"]
    assert fake[0].settings["name"] == "demo"
    assert fake[0].run_folder.parent == Path("burnish-runs")
    assert capsys.readouterr().out == "", "without a console the caller prints the result"


@pytest.mark.usefixtures("briefly")
def test_demo_announces_on_a_console(fake: list[FakeResult], tmp_path: Path) -> None:
    stream = io.StringIO()
    demo(tmp_path / "out", Console(file=stream, width=200))
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("Training a small network")
    assert lines[1] == "the table [and why]"
    assert lines[2] == f"report {tmp_path / 'out' / 'report.html'}"
    assert lines[3] == f"bundle {tmp_path / 'out' / 'bundle'}"


@pytest.mark.usefixtures("briefly")
def test_the_run_s_folder_belongs_to_the_weights(fake: list[FakeResult]) -> None:
    demo()
    demo()
    assert fake[0].run_folder == fake[1].run_folder
    assert fake[0].saved == []
    with torch.no_grad():
        fake[0].model.get_parameter("classifier.bias")[0] += 1
    assert _demo._digest(fake[0].model) != _demo._digest(fake[1].model)


def test_progress_shows_on_a_terminal_only() -> None:
    def shown(terminal: bool) -> str:
        stream = io.StringIO()
        bar = _demo._bar(Console(file=stream, force_terminal=terminal, width=100))
        items: Iterable[int] = bar(range(3), "training, epoch 1 of 2")
        assert list(items) == [0, 1, 2]
        return stream.getvalue()

    assert "training, epoch 1 of 2" in shown(True)
    assert shown(False) == ""


@pytest.mark.slow
def test_the_whole_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = demo(tmp_path / "out")
    pick = result.report["pick"]
    assert pick["state"] == "verified"
    assert pick["test"]["baseline"]["value"] >= 0.97
    assert (tmp_path / "out" / "report.html").is_file()
    assert (tmp_path / "out" / "bundle" / "manifest.json").is_file()
    picked = next(c for c in result.report["candidates"] if c["label"] == pick["label"])
    if picked["precision"] == "int8":
        assert picked["ratio"]["high"] < 1
        assert picked["num_int8"] > 0

"""`burnish profile`: what a file may return, what is written where, what is refused."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from burnish import profile as room
from burnish.cli._app import app

FILE = """
import torch
from torch import nn
import burnish

def inputs():
    return nn.Linear(4, 3), burnish.Inputs(torch.zeros(1, 4))

def tensors():
    return nn.Linear(4, 3), torch.zeros(1, 4)

def task():
    x = torch.zeros(1, 4)
    return nn.Linear(4, 3), burnish.Task(burnish.Inputs(x), metric=burnish.metrics.top1)

def alone():
    return nn.Linear(4, 3)

def empty():
    return nn.Linear(4, 3), torch.zeros(0, 4)
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of models, in a folder of its own; profiles count and do not run."""
    path = tmp_path / "models.py"
    path.write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(room, "profile", functools.partial(room.profile, runtimes=()))
    return path


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["profile", *map(str, arguments)])


@pytest.mark.parametrize("name", ["inputs", "tensors", "task"])
def test_the_table_is_printed_and_three_files_are_written(file: Path, name: str) -> None:
    done = run(f"{file}:{name}", "--batch", 8)
    assert done.exit_code == 0, done.stderr
    assert "linear" in done.stdout
    assert "batch 8" in done.stdout
    folder = file.parent / "burnish-runs" / "models-profile"
    record = json.loads((folder / "profile.json").read_text())
    assert (record["title"], record["batch"], record["macs"]) == ("models", 8, 8 * 12)
    for written in ("profile.json", "profile.html", "trace.json"):
        assert (folder / written).is_file()
        assert written in done.stdout


def test_further_devices_and_another_folder(file: Path) -> None:
    mine = [{"name": "my board", "kind": "phone", "flash_bytes": 1, "ram_bytes": None}]
    (file.parent / "mine.json").write_text(json.dumps(mine))
    done = run(f"{file}:inputs", "--devices", file.parent / "mine.json", "--out", "elsewhere")
    assert done.exit_code == 0, done.stderr
    assert "my board" in done.stdout
    assert (file.parent / "elsewhere" / "profile.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["alone"], "must return a tuple (model, how to call it)"),
        (["empty"], "no element"),
        (["inputs", "--batch", 0], "batch=0"),
        (["inputs", "--threads", 0], "threads=0"),
        (["inputs", "--seconds", 0], "seconds=0"),
        (["inputs", "--devices", "nowhere.json"], "nowhere.json cannot be read"),
        (["nothing"], "has no function 'nothing'"),
    ],
)
def test_what_cannot_be_profiled_is_refused_in_words(
    file: Path, arguments: list[Any], words: str
) -> None:
    done = run(f"{file}:{arguments[0]}", *arguments[1:])
    assert done.exit_code == 2
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_peaks_are_measured_where_asked_for(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.profile.probes import made_up

    asked: list[Any] = []

    def probe(**settings: Any) -> Any:
        asked.append(settings["threads"])
        settings["progress"]("multiplying", 0.5)
        return made_up()

    monkeypatch.setattr(room, "probe", probe)
    assert run(f"{file}:inputs", "--threads", 1).exit_code == 0
    assert asked == []
    assert run(f"{file}:inputs", "--threads", 1, "--probe").exit_code == 0
    assert asked == [1]
    record = json.loads((file.parent / "burnish-runs/models-profile/profile.json").read_text())
    assert record["peaks"]["peaks"][0]["runtime"] == "eager"

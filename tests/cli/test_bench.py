"""`burnish bench`: what it prints, and how it ends when a bundle does not run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from burnish.cli._app import app
from tests.bundle import models


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)


def test_what_was_measured_is_printed_with_units(bundle: Path) -> None:
    done = run("bench", bundle, "--seconds", 0.3, "--batch", 4, "--threads", 1)
    assert done.exit_code == 0
    rows = [line.split() for line in done.stdout.splitlines()]
    found = {row[0]: row for row in rows if row}
    median, p99 = float(found["median"][1]), float(found["p99"][1])
    assert 0 < median <= p99
    assert found["median"][2:5] == ["ms", "per", "call,"]
    assert float(found["throughput"][1].replace(",", "")) > 0
    assert float(found["peak"][2].replace(",", "")) > 10
    assert "calls of batch 4" in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--batch", 0), "batch is 0"),
        (("--seconds", 0), "seconds=0.0"),
        (("--threads", 0), "threads is 0"),
    ],
)
def test_what_makes_no_sense_is_refused(bundle: Path, options: tuple[object], said: str) -> None:
    done = run("bench", bundle, *options)
    assert done.exit_code == 2
    assert said in done.stderr


def test_one_that_crashes_and_one_that_is_none(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("bench", tmp_path).exit_code == 2
    monkeypatch.setenv("PYTHONPATH", models.fake_onnxruntime(tmp_path, load="os.abort()"))
    done = run("bench", bundle)
    assert done.exit_code == 2
    assert "crashed while loading" in done.stderr

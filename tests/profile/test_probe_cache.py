"""What is kept is found again, under the very same conditions only."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from burnish.profile._probe_cache import Conditions, keep, kept
from tests.profile.probes import made_up

HERE = Conditions("0123456789ab", {}, 2)


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_nothing_is_kept_before_it_was_measured() -> None:
    assert kept(HERE) is None


def test_it_is_found_again(folder: Path) -> None:
    assert keep(HERE, made_up()) is None
    assert kept(HERE) == made_up()
    assert HERE.path.parent == folder


@pytest.mark.parametrize(
    "other",
    [
        replace(HERE, environment="ba9876543210"),
        replace(HERE, threads=1),
        replace(HERE, masks={"ONEDNN_MAX_CPU_ISA": "AVX2"}),
    ],
    ids=["environment", "threads", "masks"],
)
def test_under_other_conditions_it_is_not(other: Conditions) -> None:
    keep(HERE, made_up())
    assert other.path != HERE.path
    assert kept(other) is None
    # Nor where its name says otherwise.
    other.path.write_text(HERE.path.read_text())
    assert kept(other) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', "\x00\xff"])
def test_a_damaged_file_counts_as_none(text: str) -> None:
    keep(HERE, made_up())
    HERE.path.write_text(text, encoding="latin-1")
    assert kept(HERE) is None
    keep(HERE, made_up())
    assert kept(HERE) == made_up()


def test_where_it_cannot_be_kept_that_is_said(folder: Path) -> None:
    folder.write_text("a file where the folder should be")
    said = keep(HERE, made_up())
    assert said is not None
    assert str(folder) in said
    assert "BURNISH_CACHE" in said


def test_the_file_is_plain_json() -> None:
    keep(HERE, made_up())
    assert json.loads(HERE.path.read_text())["peaks"][2]["gmacs"] == 100.0

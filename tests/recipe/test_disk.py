"""A full disk is an error of ours, and the run folder stays readable."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path
from typing import Any

import pytest

from burnish.errors import BurnishError
from burnish.recipe import Store
from tests.recipe.folders import OURS, filled

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Filling:
    """A file on a disk that takes `room` bytes more."""

    def __init__(self, file: Any, room: int) -> None:
        self.file = file
        self.room = room

    def write(self, data: bytes) -> int:
        taken = data[: self.room]
        if not taken:
            raise FULL
        self.room -= len(taken)
        return int(self.file.write(taken))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@pytest.mark.parametrize("room", [0, 1, 30])
def test_a_disk_that_fills_while_appending_leaves_a_readable_journal(
    tmp_path: Path, room: int
) -> None:
    """Closing the folder afterwards must neither fail nor write what was refused."""
    run = filled(tmp_path / "run", "ab")

    def fill() -> None:
        with Store.open(run, OURS) as store:
            store._handle = Filling(store._handle, room)
            store.record("c", {"number": 2})

    with pytest.raises(BurnishError, match=r"No space left on device.*make room"):
        fill()
    with Store.open(run, OURS) as store:
        assert [event["key"] for event in store.events()] == ["a", "b"]
        store.record("c", {"number": 2})
    with Store.open(run, OURS) as store:
        assert store.find("c") == {"number": 2}


def test_a_disk_that_takes_a_line_in_pieces(tmp_path: Path) -> None:
    class Slow(Filling):
        def write(self, data: bytes) -> int:
            return int(self.file.write(data[:7]))

    with Store.open(tmp_path / "run", OURS) as store:
        store._handle = Slow(store._handle, 0)
        store.record("a", {"text": "x" * 100})
    with Store.open(tmp_path / "run", OURS) as store:
        assert store.find("a") == {"text": "x" * 100}


def test_a_disk_that_fails_while_flushing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = filled(tmp_path / "run", "ab")

    def full(_: int) -> None:
        raise FULL

    with Store.open(run, OURS) as store:
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(BurnishError, match="No space left"):
                store.record("c", 1)
        store.record("c", 2)
    with Store.open(run, OURS) as store:
        assert store.find("c") == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run", OURS) as store:
        store.record("a", 1)
        kept = store._handle
        with open("/dev/full", "a+b", buffering=0) as full:
            store._handle = full
            with pytest.raises(BurnishError, match="No space left"):
                store.record("b", 2)
        store._handle = kept
        store.record("b", 2)
    with Store.open(tmp_path / "run", OURS) as store:
        assert [event["key"] for event in store.events()] == ["a", "b"]


def test_a_file_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise FULL

    with Store.open(tmp_path / "run", OURS) as store:
        store.write("report.json", "old")
        for name in ("replace", "fsync"):
            with monkeypatch.context() as patched:
                patched.setattr(os, name, full)
                with pytest.raises(BurnishError, match=r"report\.json: No space left"):
                    store.write("report.json", "new")
        assert (store.folder / "report.json").read_text() == "old"
        left = {path.name for path in store.folder.iterdir()}
    assert left == {"run.json", "journal.jsonl", "report.json"}


def test_a_disk_that_is_full_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise FULL

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(BurnishError, match=r"run\.json: No space left"):
            Store.open(tmp_path / "run", OURS)
    with Store.open(tmp_path / "run", OURS) as store:
        store.record("a", 1)


def test_a_folder_for_a_candidate_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise FULL

    with Store.open(tmp_path / "run", OURS) as store:
        assert store.candidate("key").is_dir()
        monkeypatch.setattr(Path, "mkdir", full)
        with pytest.raises(BurnishError, match="candidates/other: No space left"):
            store.candidate("other")


def test_a_file_that_may_grow_no_further(tmp_path: Path) -> None:
    """The system's own limit: nothing of ours stands between. Closing must not try again."""
    run = filled(tmp_path / "run", "ab")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def grow() -> None:
        with Store.open(run, OURS) as store:
            size = (run / "journal.jsonl").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
            store.record("c", "x" * 100)

    try:
        with pytest.raises(BurnishError, match="File too large"):
            grow()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with Store.open(run, OURS) as store:
        assert [event["key"] for event in store.events()] == ["a", "b"]

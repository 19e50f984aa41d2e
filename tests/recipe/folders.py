"""Run folders with a journal, and the lines of it."""

from __future__ import annotations

from pathlib import Path

from burnish.recipe import Store

OURS = {"model": "aa", "goal": "bb"}


def filled(folder: Path, keys: str = "abcde") -> Path:
    """A closed run folder with a journal of one line for each key."""
    with Store.open(folder, OURS) as store:
        for number, key in enumerate(keys):
            store.record(key, {"number": number})
    return folder


def lines_of(folder: Path) -> list[bytes]:
    return (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)


def write_lines(folder: Path, lines: list[bytes]) -> None:
    (folder / "journal.jsonl").write_bytes(b"".join(lines))

"""The code of the card runs, from its first block to its last, and prints what is said here."""

from __future__ import annotations

from pathlib import Path

from tests.cards import run


def test_the_code_of_the_card_runs(root: Path, capsys) -> None:
    assert run(root / "docs/methods/distill.md") == 5
    assert capsys.readouterr().out.splitlines() == ["['kd', 'labels']", "True", "['0', '2']"]

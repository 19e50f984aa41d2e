"""The code of the card runs, and prints what is said here."""

from __future__ import annotations

from pathlib import Path

from tests.cards import run


def test_the_code_of_the_card_prints_what_it_should(root: Path, capsys) -> None:
    assert run(root / "docs/methods/weight_only.md") == 2
    assert capsys.readouterr().out.splitlines() == [
        "0:linear int4 weights ",
        "1:relu float holds no weights that could be stored in fewer bits",
        "2:linear float excluded",
        "['MatMulNBits']",
    ]

"""The code of the card on features runs and prints what is said there."""

from __future__ import annotations

from pathlib import Path

from tests.cards import run


def test_the_code_of_the_card_runs(root: Path, capsys) -> None:
    assert run(root / "docs/methods/feature_distillation.md")
    assert capsys.readouterr().out.splitlines() == [
        "hint 1 100.0",
        "Conv2d(8, 16, kernel_size=(1, 1), stride=(1, 1))",
        "True",
    ]

"""The code of the card runs and prints what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cards import run


def test_the_code_of_the_card_runs(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root / "docs/methods/distillation.md") == 3
    assert capsys.readouterr().out.splitlines() == ["True", "dkd True", "pixels True"]

"""The code of the card of the recovery ladder runs, from its first block to its last."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.auto.made_up import one_thread
from tests.cards import run


def test_the_code_of_the_card_runs(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with one_thread():
        assert run(root / "docs/methods/recover.md")
    printed = capsys.readouterr().out
    assert "batch_norm" in printed
    assert "2 of 2 layers repaired from 100 samples" in printed

"""The code of the card of the recovery ladder runs, from its first block to its last."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.auto.made_up import one_thread


def test_the_code_of_the_card_runs(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (root / "docs/methods/recover.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    with one_thread():
        for block in re.findall(r"```python\n(.*?)```", text, re.S):
            exec(compile(block, "recover", "exec"), names)
    printed = capsys.readouterr().out
    assert "batch_norm" in printed
    assert "2 of 2 layers repaired from 100 samples" in printed

"""The code of the card runs and prints what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest


def test_the_code_of_the_card_runs(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (root / "docs/methods/distillation.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "distillation", "exec"), names)
    assert len(blocks) == 3
    assert capsys.readouterr().out.splitlines() == ["True", "dkd True", "pixels True"]

"""The code of the card runs, from its first block to its last, and prints what is said here."""

from __future__ import annotations

import re
from pathlib import Path


def test_the_code_of_the_card_runs(root: Path, capsys) -> None:
    text = (root / "docs/methods/distill.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "distill", "exec"), names)
    assert len(blocks) == 5
    assert capsys.readouterr().out.splitlines() == ["['kd', 'labels']", "True", "['0', '2']"]

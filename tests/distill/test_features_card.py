"""The code of the card on features runs and prints what is said there."""

from __future__ import annotations

import re
from pathlib import Path


def test_the_code_of_the_card_runs(root: Path, capsys) -> None:
    text = (root / "docs/methods/feature_distillation.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(compile(block, "feature_distillation", "exec"), names)
    assert capsys.readouterr().out.splitlines() == [
        "hint 1 100.0",
        "Conv2d(8, 16, kernel_size=(1, 1), stride=(1, 1))",
        "True",
    ]

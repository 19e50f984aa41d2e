"""The card's code runs, from its first block to its last."""

from __future__ import annotations

import re
from pathlib import Path

CARD = Path("docs/methods/quantize_dynamic.md")


def test_the_code_in_the_card_runs(root: Path, capsys) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (root / CARD).read_text(encoding="utf-8"), re.S)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(CARD), "exec"), names)
    assert len(blocks) == 2
    assert capsys.readouterr().out.splitlines() == [
        "0:linear int8 ",
        "1:relu float holds no weights that could be int8",
        "2:linear float excluded",
        "['DynamicQuantizeMatMul']",
    ]

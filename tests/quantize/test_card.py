"""The card's code runs, from its first block to its last."""

from __future__ import annotations

import re
from pathlib import Path

CARD = Path("docs/methods/quantize_static.md")


def test_the_code_in_the_card_runs(root: Path, capsys) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (root / CARD).read_text(encoding="utf-8"), re.S)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(CARD), "exec"), names)
    assert len(blocks) == 2
    assert capsys.readouterr().out.splitlines() == [
        "0:conv2d int8 ",
        "2:relu fused inside 0:conv2d",
        "3:conv2d float excluded",
    ]

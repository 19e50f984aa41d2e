"""The code of the cards of SmoothQuant and cross-layer equalization runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PRINTED = {
    "smooth_quant": [
        "True",
        "1:linear smoothed inside 0:layer_norm",
        "3:linear smoothed inside 1:linear",
    ],
    "cross_layer_equalization": [
        "0:conv2d left alone nothing with weights stands in front",
        "3:conv2d equalized with 0:conv2d before it",
    ],
}


@pytest.mark.parametrize("card", PRINTED)
def test_the_code_in_the_card_runs(root: Path, capsys, card: str) -> None:
    text = (root / "docs/methods" / f"{card}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, card, "exec"), names)
    assert len(blocks) == 2
    assert capsys.readouterr().out.splitlines() == PRINTED[card]

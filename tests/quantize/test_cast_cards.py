"""The code in the cards of casts and sensitivity runs, from the first block to the last."""

from __future__ import annotations

import re
from pathlib import Path

import pytest


def run(card: Path) -> None:
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", card.read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, str(card), "exec"), names)


def test_the_code_in_the_card_of_casts_runs(root: Path, capsys: pytest.CaptureFixture) -> None:
    run(root / "docs/methods/cast.md")
    assert capsys.readouterr().out.splitlines() == [
        "0:linear float16 ",
        "1:layer_norm float32 normalisation: divides by a root of summed squares",
        "2:gelu float32 between float32 values: in the small type it would need a conversion",
        "3:linear float32 kept in float32, as asked",
    ]


def test_the_code_in_the_card_of_sensitivity_runs(
    root: Path, capsys: pytest.CaptureFixture
) -> None:
    run(root / "docs/methods/sensitivity.md")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["operator", "output", "error", "weights", "activations"]
    assert {line.split()[0] for line in lines[1:3]} == {"0:conv2d", "2:conv2d"}
    assert lines[-1] == "by output error, 64 samples"

"""The code of the cards of HQQ, GPTQ and AWQ runs, and prints what is said here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cards import run

PRINTED = {
    "hqq": ["True"],
    "gptq": ["True", "0:linear int4 weights", "1:gelu float", "2:linear int4 weights"],
}


@pytest.mark.parametrize("card", PRINTED)
def test_the_code_of_a_card_prints_what_it_should(root: Path, capsys, card: str) -> None:
    assert run(root / "docs/methods" / f"{card}.md")
    assert capsys.readouterr().out.splitlines() == PRINTED[card]


def test_awq_tells_which_layers_gained(root: Path, capsys) -> None:
    assert run(root / "docs/methods/awq.md") == 2
    better, first, second = capsys.readouterr().out.splitlines()
    assert better == "True"
    assert first.startswith("1:linear int4 weights")
    assert "its input channels are scaled inside 0:layer_norm" in first
    assert "rounded to nearest: its inputs cannot be scaled for nothing: gelu" in second

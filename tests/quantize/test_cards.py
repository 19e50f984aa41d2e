"""The code of each card runs, from its first block to its last, and prints what is said here.

The card and the page on tensors say themselves what their code prints: test_tensor_docs.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cards import run

PRINTED = {
    "quantize_static": [
        "0:conv2d int8 ",
        "2:relu fused inside 0:conv2d",
        "3:conv2d float excluded",
    ],
    "quantize_dynamic": [
        "0:linear int8 ",
        "1:relu float holds no weights that could be int8",
        "2:linear float excluded",
        "['DynamicQuantizeMatMul']",
    ],
    "cast": [
        "0:linear float16 ",
        "1:layer_norm float32 normalisation: divides by a root of summed squares",
        "2:gelu float32 between float32 values: in the small type it would need a conversion",
        "3:linear float32 kept in float32, as asked",
    ],
    "smooth_quant": [
        "True",
        "1:linear smoothed inside 0:layer_norm",
        "3:linear smoothed inside 1:linear",
    ],
    "cross_layer_equalization": [
        "0:conv2d left alone nothing with weights stands in front",
        "3:conv2d equalized with 0:conv2d before it",
    ],
    "observers": ["(8,) torch.int8"],
    "qat": ["True", "['PrepareQat', 'Distill', 'ConvertQat']"],
}


@pytest.mark.parametrize("card", PRINTED)
def test_the_code_of_a_card_prints_what_it_should(root: Path, capsys, card: str) -> None:
    assert run(root / "docs/methods" / f"{card}.md") == 2
    assert capsys.readouterr().out.splitlines() == PRINTED[card]


def test_the_code_of_the_card_of_sensitivity_prints_its_table(root: Path, capsys) -> None:
    assert run(root / "docs/methods/sensitivity.md") == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["operator", "output", "error", "weights", "activations"]
    assert {line.split()[0] for line in lines[1:3]} == {"0:conv2d", "2:conv2d"}
    assert lines[-1] == "by output error, 64 samples"


@pytest.mark.parametrize("card", ["saturation", "adaround"])
def test_the_code_of_a_card_runs(root: Path, card: str) -> None:
    assert run(root / "docs/methods" / f"{card}.md")

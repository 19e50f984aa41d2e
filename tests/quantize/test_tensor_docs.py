"""The card and the migration page: each block of code runs and prints the block that follows it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGES = ("docs/methods/quantize_tensor.md", "docs/migration/from_torch_quantize_per_tensor.md")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_prints_what_the_page_says(page: str, root: Path, capsys) -> None:
    text = (root / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```(python|text)\n(.*?)```", text, re.S)
    names: dict[str, object] = {}
    printed = [block for kind, block in blocks if kind == "text"]
    assert [kind for kind, _ in blocks] == ["python", "text"] * 2
    for block, wanted in zip((b for k, b in blocks if k == "python"), printed, strict=True):
        exec(compile(block, page, "exec"), names)
        assert capsys.readouterr().out == wanted


@pytest.mark.parametrize("page", PAGES)
def test_the_links_of_a_page_lead_somewhere(page: str, root: Path) -> None:
    text = (root / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert links
    assert all((root / page).parent.joinpath(link).exists() for link in links)

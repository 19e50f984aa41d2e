"""The code of each page on training, from its first block to its last."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cards import run

PRINTED = {"fit": ["best 6", "True"]}


def test_every_page_is_run(root: Path) -> None:
    assert {path.stem for path in (root / "docs/train").glob("*.md")} == set(PRINTED)


@pytest.mark.parametrize("page", PRINTED)
def test_it_prints_what_it_should(root: Path, capsys, page: str) -> None:
    assert run(root / "docs/train" / f"{page}.md")
    assert capsys.readouterr().out.splitlines() == PRINTED[page]

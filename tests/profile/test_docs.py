"""The code of each page on profiling runs, from its first block to its last."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cards import run

PRINTED = {
    "profile": [
        "0:conv2d 442368 79616 5.6",
        "1:batch_norm 0 131328 0",
        "2:relu 0 131072 0",
        "77824 0:conv2d",
        "the activations take 77.8 KB, it has 65.5 KB of memory; in int8 it would fit",
        "12",
    ],
    "probe": None,
}
MEASURING = ("compile", "latency_table", "preflight", "sweep")


def test_every_page_is_run(root: Path) -> None:
    assert {path.stem for path in (root / "docs/profile").glob("*.md")} == {*PRINTED, *MEASURING}


@pytest.mark.parametrize("page", PRINTED)
def test_a_page_that_measures_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, page: str
) -> None:
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path))
    assert run(root / "docs/profile" / f"{page}.md") == 2
    expected = PRINTED[page]
    if expected is not None:
        assert capsys.readouterr().out.splitlines() == expected


@pytest.mark.slow
@pytest.mark.parametrize("page", MEASURING)
def test_a_page_that_measures(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path))
    assert run(root / "docs/profile" / f"{page}.md") >= 1

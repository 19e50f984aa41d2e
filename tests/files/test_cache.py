"""Where what can be made again is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from burnish.files import cache_folder


def test_the_variable_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path


def test_without_the_variable_it_is_the_platforms_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("BURNISH_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    found: dict[str, Any] = {}
    for platform in ("linux", "darwin"):
        monkeypatch.setattr("sys.platform", platform)
        found[platform] = cache_folder().relative_to(tmp_path).as_posix()
    assert found == {"linux": ".cache/burnish", "darwin": "Library/Caches/burnish"}
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "burnish"

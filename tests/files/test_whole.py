"""A file is there whole, or as it was before."""

from __future__ import annotations

from pathlib import Path

import pytest

from burnish.files import replacing, write_text


def test_text_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    path.write_text("old")
    write_text(path, "ä new one")
    assert path.read_text(encoding="utf-8") == "ä new one"
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


def test_what_fails_half_way_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(b"old")

    def fail() -> None:
        with replacing(path) as unfinished:
            assert (unfinished.parent, unfinished.suffix) == (tmp_path, ".pt2")
            unfinished.write_bytes(b"half of a")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_absent_folder_is_the_callers_to_make(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "absent" / "file.txt", "text")

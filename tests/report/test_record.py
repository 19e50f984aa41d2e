"""What is missing is unknown; what is wrong is refused, by file and place."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from burnish.errors import Damaged, InvalidInput
from burnish.report import report, text
from burnish.report._record import parse
from tests.report import runs


def test_no_folder_and_no_report_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="nowhere is not a folder"):
        report(tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match=r"holds no report\.json"):
        report(tmp_path)


@pytest.mark.parametrize("content", ["", '{"schema": 1, "title": "cut', "[]", "\x00", '"x"'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "report.json").write_text(content, encoding="utf-8")
    with pytest.raises(Damaged, match=r"report\.json"):
        report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_bytes_that_are_no_text_are_damage(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(Damaged, match=r"report\.json"):
        report(tmp_path)


def test_a_later_schema_is_told_from_damage() -> None:
    with pytest.raises(InvalidInput, match="later version"):
        parse(runs.good() | {"schema": 2})
    with pytest.raises(Damaged, match="schema"):
        parse({"title": "no schema"})


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"candidates": {}}, "candidates"),
        ({"candidates": [3]}, r"candidates\[0\]"),
        ({"title": 4}, "title"),
        ({"notes": [None]}, r"notes\[0\]"),
        ({"pick": {"state": "verified"}}, "pick lacks 'label'"),
        ({"candidates": [{"label": "a", "latency": {"p50_ms": "4"}}]}, r"latency\.p50_ms is '4'"),
        ({"candidates": [{"label": "a", "accepted": "no"}]}, "accepted"),
        ({"candidates": [{"label": "a", "size_mb": True}]}, "size_mb"),
        ({"coverage": {"a": "all"}}, r"coverage\.a"),
        ({"sensitivity": {"a": 1}}, r"sensitivity\.a"),
    ],
)
def test_a_value_of_the_wrong_type_is_damage_and_its_place_is_told(
    change: dict[str, Any], place: str
) -> None:
    with pytest.raises(Damaged, match=place):
        parse(runs.good() | change)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in the record, but the inside of what is the same a hundred times over."""
    inner: Any = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value[:1])
    for key, one in inner:
        yield (*path, key)
        yield from _places(one, (*path, key))


NEEDED = {("schema",), ("pick", "label"), ("candidates", 0, "label"), ("failures", 0, "label")}
NEEDED |= {("candidates", 0, "verdict", "state"), ("pick", "test", "verdict", "state")}


@pytest.mark.parametrize("gone", ["null", "missing"])
def test_every_null_and_every_missing_key_can_be_shown(gone: str) -> None:
    """Each single place of a full record, emptied in turn, still gives a text."""
    whole = runs.good()
    whole["candidates"] = [one for one in whole["candidates"] if one["label"] == runs.PICK]
    tried = 0
    for path in _places(whole):
        if path in NEEDED or isinstance(path[-1], int):
            continue
        record = copy.deepcopy(whole)
        inside = record
        for key in path[:-1]:
            inside = inside[key]
        if gone == "null":
            inside[path[-1]] = None
        else:
            del inside[path[-1]]
        shown = text(json.loads(json.dumps(record)))
        assert "None" not in shown
        assert "nan" not in shown
        tried += 1
    assert tried > 80


def test_nan_is_unknown_and_infinity_is_written() -> None:
    record = runs.good()
    record["candidates"] = [one for one in record["candidates"] if one["label"] == runs.PICK]
    record["candidates"][0]["size_mb"] = float("nan")
    record["pick"]["test"]["verdict"]["low"] = float("-inf")
    shown = text(json.loads(json.dumps(record)))
    assert "size unknown" in shown
    assert "−∞ to" in shown

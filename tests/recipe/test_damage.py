"""A damaged journal is refused by the number of the line; nothing of it is believed."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.errors import Damaged
from burnish.recipe import Store
from tests.recipe.folders import OURS, filled, lines_of, write_lines


def flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


@given(bit=st.integers(min_value=0))
def test_any_flipped_bit_is_seen(tmp_path_factory: pytest.TempPathFactory, bit: int) -> None:
    """A flip of the last newline looks like a kill: that line is dropped, never believed."""
    run = filled(tmp_path_factory.mktemp("flip") / "run", "abc")
    data = (run / "journal.jsonl").read_bytes()
    bit %= 8 * len(data)
    (run / "journal.jsonl").write_bytes(flip(data, bit))
    if bit // 8 == len(data) - 1:
        with Store.open(run, OURS) as store:
            assert [event["key"] for event in store.events()] == ["a", "b"]
        return
    line = data[: bit // 8].count(b"\n") + 1
    with pytest.raises(Damaged, match=f"line {line} of .*journal.jsonl"):
        Store.open(run, OURS)


def test_a_changed_figure_in_valid_json_is_damage(tmp_path: Path) -> None:
    run = filled(tmp_path / "run")
    lines = lines_of(run)
    forged = lines[2].replace(b'"number":2}', b'"number":9}')
    assert forged != lines[2]
    json.loads(forged)
    write_lines(run, [*lines[:2], forged, *lines[3:]])
    with pytest.raises(Damaged, match=r"line 3 of .*delete that line and all below it"):
        Store.open(run, OURS)


@pytest.mark.parametrize(
    ("change", "number"),
    [
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], 2),
        (lambda lines: [*lines[:2], lines[1], *lines[2:]], 3),
        (lambda lines: [*lines[:1], *lines[2:]], 2),
        (lambda lines: [*lines[:3], b"garbage\n", *lines[3:]], 4),
        (lambda lines: [*lines[:3], b"\xff\xfe\x00\n", *lines[3:]], 4),
        (lambda lines: [*lines, b"\n"], 6),
        (lambda lines: [*lines, b'"a string"\n'], 6),
        (lambda lines: [b"\x00" * 64 + b"\n", *lines[1:]], 1),
    ],
    ids=["swapped", "twice", "missing", "garbage", "binary", "empty", "no object", "zeros"],
)
def test_damaged_lines_are_refused_by_number(tmp_path: Path, change: Any, number: int) -> None:
    run = filled(tmp_path / "run")
    write_lines(run, change(lines_of(run)))
    before = (run / "journal.jsonl").read_bytes()
    with pytest.raises(Damaged, match=f"line {number} of"):
        Store.open(run, OURS)
    assert (run / "journal.jsonl").read_bytes() == before


def test_a_checksum_of_our_own_making_does_not_excuse_a_line_without_a_result(
    tmp_path: Path,
) -> None:
    run = filled(tmp_path / "run", "")
    body = '{"number":0,"at":1.0,"key":"a"}'
    line = f'{body[:-1]},"crc":"{zlib.crc32(body.encode()):08x}"}}\n'
    (run / "journal.jsonl").write_text(line)
    with pytest.raises(Damaged, match="line 1 of"):
        Store.open(run, OURS)


def test_doing_as_the_message_says_mends_it(tmp_path: Path) -> None:
    run = filled(tmp_path / "run")
    lines = lines_of(run)
    write_lines(run, [*lines[:2], b"garbage\n", *lines[3:]])
    with pytest.raises(Damaged):
        Store.open(run, OURS)
    write_lines(run, lines[:2])
    with Store.open(run, OURS) as store:
        assert [event["key"] for event in store.events()] == ["a", "b"]

"""The sweep's page: the answer first, every combination, and what energy and cost are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from burnish.errors import Damaged, InvalidInput
from burnish.report import sweep_page
from tests.report import profiles, sweeps
from tests.report.browser import EVIL, browse, words

Json = dict[str, Any]


def page(record: Json, folder: Path) -> str:
    return sweep_page(profiles.write(record, folder, "sweep.json")).read_text(encoding="utf-8")


def test_the_answer_comes_first_and_the_rest_is_there(tmp_path: Path) -> None:
    told = words(page(sweeps.sweep(), tmp_path))
    first = told[: told.index("Throughput against latency")]
    assert "Best of those tried batch 4, 1 thread × 2 streams" in first
    assert "The best with a p99 of at most 60.0 ms." in first
    assert "Highest throughput of 9 combinations" in first
    assert "energy not measurable here: no RAPL counter" in told
    assert re.search(r"At 0\.400 an hour: 0\.\d+ for a million inferences with batch 4", told)
    assert "failed: does not fit: its inputs take 4 GB" in told
    assert "unreliable unsteady: 90 to 141 ms" in told
    assert "J per sample" not in told, "nothing was measured"
    assert "left out, because this process may use 2 cores" in told


def test_a_limit_that_none_meets_is_said_to_be_that(tmp_path: Path) -> None:
    record = sweeps.sweep()
    record["best"] |= {"point": None, "nearest": 0, "why": "the nearest gets 4 times that"}
    told = words(page(record, tmp_path))
    assert "Not met No combination has a p99 of at most 60.0 ms the nearest gets 4 times" in told


def test_without_a_question_both_ends_are_told(tmp_path: Path) -> None:
    record = sweeps.sweep() | {"best": None, "cost": None}
    told = words(page(record, tmp_path))
    assert "At most 276 samples/s" in told
    assert "Quickest: batch 1, 2 threads × 1 stream" in told
    assert "no price an hour was given" in told


def test_energy_is_a_column_where_it_was_measured(tmp_path: Path) -> None:
    record = sweeps.sweep()
    record["points"][14]["joules"] = 0.125
    told = words(page(record, tmp_path))
    assert "J per sample" in told
    assert "energy 0.125 J per sample" in told


def test_nothing_known_and_nothing_that_ran(tmp_path: Path) -> None:
    told = words(page({"schema": 1}, tmp_path))
    assert "No combination could be timed" in told
    record = sweeps.sweep() | {"best": None, "cost": {"price_per_hour": 1.0, "per_million": None}}
    record["points"] = [dict.fromkeys(record["points"][0])]
    html = page(record, tmp_path)
    assert "No combination could be timed" in words(html)
    assert not re.search(r"\b(None|nan|null|Undefined)\b", words(html))
    assert len(html) < 40_000


def test_bad_files_are_named(tmp_path: Path) -> None:
    for change, place in (
        ({"points": [3]}, r"points\[0\]"),
        ({"best": {"point": 99}}, r"best\.point is 99, and there are 18 points"),
        ({"best": {"point": -1}}, r"best\.point is -1"),
        ({"cost": {"per_million": 3}}, r"per_million is 3"),
        ({"cost": {"per_million": ["3"]}}, r"per_million\.0 is '3'"),
    ):
        with pytest.raises(Damaged, match=place):
            page(sweeps.sweep() | change, tmp_path)
    with pytest.raises(InvalidInput, match="later version"):
        page(sweeps.sweep() | {"schema": 2}, tmp_path)
    with pytest.raises(InvalidInput, match="folder of a sweep"):
        sweep_page(tmp_path / "nowhere")


def test_whatever_a_sweep_is_called_it_stays_text(tmp_path: Path) -> None:
    record = sweeps.sweep()
    record["title"] = record["best"]["why"] = record["energy"]["how"] = EVIL
    record["points"][4]["note"] = record["points"][17]["failed"] = record["notes"][0] = EVIL
    html = page(record, tmp_path)
    assert "<script>alert" not in html
    assert "<img" not in html


def test_a_browser_draws_the_curve(chromium: list[str], tmp_path: Path) -> None:
    made = sweep_page(profiles.write(sweeps.sweep(), tmp_path, "sweep.json"))
    dom = browse(chromium, made, tmp_path / "profile", "--dump-dom")
    assert len(re.findall(r'<path class="point"', dom)) == 17 + 1, "what ran, and the ring"
    assert "p99 at most 60.0 ms" in dom

"""The page: what it says, that it is safe and alone, and that a browser draws it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from burnish.errors import InvalidInput
from burnish.report import report
from tests.report import profiles, runs
from tests.report.browser import (
    EVIL,
    Loads,
    browse,
    no_wider_than_the_window,
    overflow,
    picture,
    words,
)


def page(record: dict[str, Any], folder: Path) -> str:
    return report(runs.write(record, folder)).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(runs.write(runs.good(), tmp_path_factory.mktemp("good")))


def test_the_first_thing_said_is_the_pick_its_worth_and_why(good: Path) -> None:
    told = words(good.read_text(encoding="utf-8"))
    first = told[: told.index("Quality against latency")]
    assert "Verified on test data openvino int8, 2 threads 1.68 times as fast as" in first
    assert "95 % interval 1.63 to 1.73" in first
    assert "On test data, looked at once. Quality holds: top1 changed by −0.91 points" in first
    assert "5.13 MB on disk" in first
    assert all(sentence in first for sentence in runs.good()["pick"]["why"])


def test_every_section_is_there_and_honest(good: Path) -> None:
    told = words(good.read_text(encoding="utf-8"))
    assert "440 samples were looked at; about 1,460 would decide" in told
    assert "unreliable: the timings spread too far" in told
    assert "no difference shown" in told
    assert "· 49 int8, 1 float, 16 fused, 1 passes through" in told
    assert "4 × slower in int8 on this runtime" in told
    assert "bfloat16 gave nothing: every candidate of it failed." in told
    assert "25.8 GB" in told
    assert "Where the time went: 8 min 14 s" in told
    assert "All 4 were put back" in told
    for candidate in runs.good()["candidates"]:
        assert candidate["label"] in told


def test_what_each_operator_costs_alone_is_shown_the_worst_first(good: Path) -> None:
    told = words(good.read_text(encoding="utf-8"))
    costs = told[told.index("costs alone") : told.index("What was not tried")]
    assert costs.index("blocks.0.expand") < costs.index("blocks.0.depthwise")
    assert "blocks.0.expand conv2d 0.00400 −0.10 points" in costs
    assert "2 more, " in costs
    assert "blocks.15.depthwise" not in costs


def test_without_sensitivities_their_section_is_left_out(tmp_path: Path) -> None:
    assert "costs alone" not in words(page(runs.good() | {"sensitivity": None}, tmp_path))


def test_candidates_with_the_same_coverage_share_a_table(good: Path) -> None:
    html = good.read_text(encoding="utf-8")
    assert html.count("<details>") == 2
    assert html.index(runs.PICK + "; openvino int8, 1 thread") > 0


@pytest.mark.parametrize("state", ["not verified", "undecided, accepted", "no test data", None])
def test_a_pick_that_is_not_verified_does_not_look_verified(
    tmp_path: Path, state: str | None
) -> None:
    record = runs.good()
    record["pick"] |= {"state": state, "test": None}
    told = words(page(record, tmp_path))
    assert "Verified on test data" not in told
    assert "on validation data (there is no test figure)" in told
    assert "On validation data. Quality holds" in told


def test_the_float_artifact_as_the_pick_is_said_to_be_that(tmp_path: Path) -> None:
    record = runs.good()
    record["pick"] |= {"label": runs.REFERENCE}
    assert "nothing that keeps the quality was faster" in words(page(record, tmp_path))


def test_nothing_known_is_shown_as_unknown(tmp_path: Path) -> None:
    html = page(runs.sad(), tmp_path)
    told = words(html)
    assert "Nothing to ship yet" in told
    assert "there is nothing to draw" in told
    assert "openvino int8, 2 threads : the runtime crashed (signal 11)" in told
    assert "no reason was written down" in told
    assert "how many would decide is unknown" in told
    assert not re.search(r"\b(None|nan|null|Undefined)\b", told)
    assert len(html) < 40_000, "plotly.js is not needed where there is no figure"


def test_half_known_candidates_are_drawn_or_listed(tmp_path: Path) -> None:
    record = runs.good()
    record["candidates"][0]["quality"] = None
    record["candidates"][1]["latency"]["p50_ms"] = None
    record["candidates"][2]["latency"]["low_ms"] = None
    record["candidates"][2]["quality"]["high"] = None
    told = words(page(record, tmp_path))
    listed = told[told.index("Not drawn for want of") : told.index("Candidates Fastest first")]
    assert "eager float32, 1 thread" in listed
    assert "eager float32, 2 threads" in listed
    assert "onnxruntime float32, 1 thread" not in listed


def test_whatever_a_run_is_called_it_stays_text(tmp_path: Path) -> None:
    record = runs.good()
    record["title"] = record["notes"][0] = record["pick"]["why"][0] = EVIL
    record["goal"]["metric"]["name"] = EVIL
    record["environment"][EVIL] = EVIL
    record["coverage"][EVIL] = [
        {"operator": EVIL, "kind": EVIL, "state": EVIL, "reason": EVIL},
    ]
    for candidate in record["candidates"]:
        candidate["label"] += EVIL
        candidate["runtime"] = candidate["precision"] = candidate["reason"] = EVIL
    html = page(record, tmp_path)
    assert "<script>alert" not in html
    assert "<img" not in html
    assert html.count("<script") == page(runs.good(), tmp_path).count("<script")
    assert EVIL in words(html)


def test_the_page_loads_nothing_from_anywhere(good: Path) -> None:
    html = good.read_text(encoding="utf-8")
    loads = Loads()
    loads.feed(html)
    assert loads.found == []
    style = re.findall(r"<style>(.*?)</style>", html, flags=re.DOTALL)
    assert style
    assert not any("url(" in one or "@import" in one for one in style)
    assert len(html.encode()) < 5_200_000


def test_the_page_goes_where_it_is_told(tmp_path: Path) -> None:
    run = runs.write(runs.sad(), tmp_path / "run")
    assert report(run) == run / "report.html"
    assert report(run, tmp_path / "a.html") == tmp_path / "a.html"
    assert report(run, tmp_path) == tmp_path / "report.html"
    with pytest.raises(InvalidInput, match="no folder"):
        report(run, tmp_path / "no" / "a.html")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"run", "a.html", "report.html"}


def test_no_torch_and_no_model_is_loaded(tmp_path: Path) -> None:
    run = runs.write(runs.good(), tmp_path)
    code = (
        "import sys; from pathlib import Path; from burnish.report import report; "
        f"report(Path({str(run)!r})); "
        "print([m for m in ('torch', 'onnxruntime', 'openvino') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_browser_draws_the_figure(good: Path, chromium: list[str], tmp_path: Path) -> None:
    dom = browse(chromium, good, tmp_path / "profile", "--dump-dom")
    assert re.search(r'<svg class="main-svg"', dom)
    points = re.findall(r'<path class="point"', dom)
    assert len(points) >= 11, "one mark for each candidate that has a latency and a quality"
    assert "allowed: 74.8 %" in dom
    assert dom.count('class="xerror"') == dom.count('class="yerror"') == 11


def test_the_screenshot_is_not_blank_and_nothing_is_cut_off(
    good: Path, chromium: list[str], tmp_path: Path
) -> None:
    pixels = picture(chromium, good, tmp_path, 1100)
    plot = Counter(pixel for row in pixels[700:1050] for pixel in row[140:1090])
    for colour in ("009E73", "0072B2", "CC79A7", "D55E00"):  # two runtimes, the ring, the limit
        assert plot[bytes.fromhex(colour)] > 15, f"nothing in #{colour} is drawn in the plot"
    assert len(plot) > 60
    assert no_wider_than_the_window(pixels)


def test_long_names_are_broken_not_cut_off(chromium: list[str], tmp_path: Path) -> None:
    record = runs.good()
    long = "a_name_without_any_space_in_it_" * 4
    record["goal"]["metric"] |= {"name": long, "kind": "continuous"}
    record["title"] = record["stopped"] = record["notes"][0] = long
    record["environment"][long] = record["environment"]["commit"] = long
    for candidate in record["candidates"]:
        candidate["label"] += long
        candidate["reason"] = long
    record["reference"] += long
    record["pick"]["label"] += long
    record["coverage"] = {long: runs.coverage()}
    page = report(runs.write(record, tmp_path))
    assert overflow(chromium, page, tmp_path) <= 0


def test_predictions_are_compared_with_what_was_found(tmp_path: Path) -> None:
    told = words(page(runs.good() | {"preflight": profiles.followed()}, tmp_path))
    section = told[told.index("Preflight: what was predicted, what was found") :]
    section = section[: section.index("What was not tried")]
    assert "3 of 5 predictions were put to the test: 2 held, 1 did not." in section
    assert "The move advised first was the best of those tried." in section
    assert "✗ outside the range 31 % longer" in section
    assert "✓ in the range 6.2 % longer" in section
    assert section.index(profiles.FIRST_MOVE) < section.index("more threads")


def test_the_reference_is_told_where_its_time_goes(tmp_path: Path) -> None:
    html = page(runs.good() | {"profile": profiles.good()}, tmp_path)
    told = words(html)
    assert f"Where the time goes in the reference, {runs.REFERENCE}" in told
    assert "In onnxruntime the time goes to" in told
    assert {"frontier", "icicle"} <= set(re.findall(r'id="(\w+)" class="plotly-graph-div"', html))


@pytest.mark.parametrize("key", ["preflight", "profile"])
def test_a_run_without_them_has_no_section_of_it(tmp_path: Path, key: str) -> None:
    without = page(runs.good(), tmp_path)
    assert without == page(runs.good() | {key: None}, tmp_path)
    assert "Preflight" not in words(without)
    assert "Where the time goes" not in words(without)

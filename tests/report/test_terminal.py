"""The terminal's table says the same as the page, and crops nothing."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from burnish.report import table, text
from tests.report import runs


def test_the_pick_its_speed_and_why() -> None:
    shown = text(runs.good())
    told = " ".join(shown.split())
    assert "Pick: openvino int8, 2 threads [Verified on test data]" in told
    assert "1.68 times as fast as the best float artifact (onnxruntime float32, 2 threads)" in told
    assert "95 % interval 1.63 to 1.73" in told
    assert "76.1 % on test data, n = 440; 5.13 MB on disk" in told
    assert "On test data, looked at once. Quality holds" in told
    assert all(" ".join(why.split()) in told for why in runs.good()["pick"]["why"])
    assert max(map(len, shown.splitlines())) <= 100


def test_what_is_open_what_failed_and_what_is_unreliable_is_told() -> None:
    told = " ".join(text(runs.good()).split())
    assert "cannot tell;" in told
    assert "needs 1,460" in told
    assert "unreliable" in told
    assert "openvino bfloat16, 1 thread failed: the runtime refused it" in told


def test_a_run_without_anything_is_told_without_a_pick() -> None:
    told = " ".join(text(runs.sad()).split())
    assert "Nothing to ship yet [No pick]" in told
    assert "4 made: 1 undecided on this many samples; 2 could not be made or run" in told
    assert "Pick" not in told


@pytest.mark.parametrize("width", [72, 80, 100, 160])
def test_nothing_is_cropped_at_any_width(width: int) -> None:
    shown = text(runs.good(), width)
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width
    squeezed = "".join(shown.split())
    for figure in ("5.18", "1.63–1.73", "76.4%", "1,460", "18.6"):
        assert figure in squeezed


def test_rich_markup_in_a_label_is_text() -> None:
    record = runs.good()
    record["candidates"][0]["label"] = "[red]mine[/red]"
    assert "[red]mine[/red]" in text(record)


def test_a_console_gets_colours_and_a_pipe_gets_none() -> None:
    bright, plain = io.StringIO(), io.StringIO()
    Console(file=bright, force_terminal=True, color_system="standard").print(table(runs.good()))
    Console(file=plain, width=100).print(table(runs.good()))
    assert "\x1b[" in bright.getvalue()
    assert "\x1b" not in plain.getvalue()


def test_print_shows_the_same_as_the_console() -> None:
    assert str(table(runs.good())) == text(runs.good())

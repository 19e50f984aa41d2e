"""Matrix chains in real workers: what runs, in which type, how fast, and what is put out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from burnish.bench import Race, Timing
from burnish.hardware import detect
from burnish.profile import _probe_graphs, _probe_peaks
from burnish.profile._probe import Capability, Peak
from burnish.profile._probe_dispatch import _slope
from burnish.profile._probe_graphs import FEW_ROWS, Subject, matrix, matrix_chain, subjects
from burnish.profile._probe_peaks import measure_peaks
from burnish.profile._probe_workers import Workers
from burnish.runtimes import export

Measured = tuple[dict[str, Peak], dict[str, Capability], list[Subject]]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    """The two runtimes that load at once (torch takes seconds), with one thread."""
    patch = pytest.MonkeyPatch()
    patch.setattr(_probe_graphs, "RUNTIMES", ("onnxruntime", "openvino"))
    asked = list(subjects(tmp_path_factory.mktemp("chains"), 1))
    peaks, known = measure_peaks(asked, detect(), 1, dict, 0.5, lambda share: None)
    labels = [subject.label for subject in asked]
    yield dict(zip(labels, peaks, strict=True)), dict(zip(labels, known, strict=True)), asked
    patch.undo()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_float32_is_its_own_measure(measured: Measured, runtime: str) -> None:
    peaks, known, _ = measured
    peak = peaks[f"{runtime} float32"]
    assert (known[f"{runtime} float32"].state, known[f"{runtime} float32"].speed) == ("native", 1.0)
    assert peak.gmacs is not None
    assert peak.low is not None
    assert peak.high is not None
    assert 0.1 < peak.low <= peak.gmacs <= peak.high


@pytest.mark.parametrize(("runtime", "kernel"), [("onnxruntime", "QGemm"), ("openvino", "i8")])
def test_int8_is_computed_in_int8(measured: Measured, runtime: str, kernel: str) -> None:
    peaks, known, _ = measured
    found = known[f"{runtime} int8"]
    assert kernel.lower() in found.how.lower()
    assert found.state in ("native", "emulated")
    reliable = all(peaks[f"{runtime} {dtype}"].reliable for dtype in ("float32", "int8"))
    if detect().supports_int8 and reliable:
        assert found.speed is not None
        assert found.speed > 1.2


def test_onnxruntime_itself_was_asked_for_bfloat16(measured: Measured) -> None:
    peaks, known, asked = measured
    assert next(s for s in asked if s.label == "onnxruntime bfloat16").artifact is not None
    found = known["onnxruntime bfloat16"]
    if found.state == "refused":
        assert "Could not find an implementation" in str(found.reason)
        assert peaks["onnxruntime bfloat16"].gmacs is None
        assert peaks["onnxruntime bfloat16"].note == found.reason


def test_the_chain_keeps_the_spread_of_its_values(measured: Measured) -> None:
    for subject in measured[2]:
        assert 0.5 < subject.expected.std() < 2.0


def test_what_fails_is_put_out_and_the_others_go_on(tmp_path: Path) -> None:
    """A file that is none, one whose answer has other rows, one whose answer is another."""
    graph = matrix_chain("float32", width=8, depth=1)
    good = export(graph, "onnxruntime", tmp_path / "good").with_options(threads=1)
    broken = export(graph, "onnxruntime", tmp_path / "broken").with_options(threads=1)
    (broken.folder / broken.files[0]).write_bytes(b"no model")
    inputs = matrix(FEW_ROWS, 8)
    pairs = {"good": good, "broken": broken, "short": good, "other": good}
    with Workers(pairs.items()) as workers:
        (right,) = workers._workers["good"].run(inputs)
        assert workers.error("good", inputs, right) == 0.0
        assert workers.error("good", inputs, right / 1.25) == pytest.approx(0.25)
        assert math.isnan(workers.error("short", inputs, right[1:]))
        assert math.isnan(workers.error("other", inputs, -right))
        assert workers.labels == ["good"]
        assert "parsing failed" in workers.reasons["broken"]
        assert str(tmp_path) not in workers.reasons["broken"]
        assert "shape [16, 8] where [15, 8] is right" in workers.reasons["short"]
        assert "off by 200%" in workers.reasons["other"]
        race = workers.race(["good"], inputs, 0.1, lambda share: None)
        assert race.timing("good").failed is None
        assert workers.race([], inputs, 0.1, lambda share: None).timings == ()


def race_of(times: dict[str, list[float]], failed: dict[str, str]) -> Race:
    one = Timing("", 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0, 0, 8, None, "")
    timings = tuple(replace(one, label=name, failed=failed.get(name)) for name in times)
    return Race(timings, {label: tuple(values) for label, values in times.items()}, 0.95)


def rated(label: str, seen: _probe_peaks._Seen) -> Peak:
    runtime, dtype = label.split()
    return _probe_peaks._rate(Subject(runtime, dtype, None, np.zeros(0)), seen)[0]


def test_a_rate_is_marked_where_it_is_worth_little() -> None:
    steady, shaky = [0.01] * 8, [0.01, 0.02] * 4
    seen = _probe_peaks._Seen(
        reasons={"x int8": "no such kernel"},
        kinds={},
        first={"x float32": 0.001, "x bfloat16": 0.5, "y float32": 0.001, "z float32": 0.001},
        race=race_of(
            {"x float32": steady, "y float32": shaky, "z float32": steady}, {"z float32": "crashed"}
        ),
        rows=64,
    )
    work = 64 * 4 * 1024**2 / 1e9
    peak = rated("x float32", seen)
    assert peak.gmacs == pytest.approx(work / 0.01)
    assert (peak.reliable, peak.note) == (True, None)
    assert rated("x int8", seen).note == "no such kernel"
    slow = rated("x bfloat16", seen)
    assert (slow.reliable, slow.low) == (False, None)
    assert "too slow to race" in str(slow.note)
    doubtful = rated("y float32", seen)
    assert not doubtful.reliable
    assert "not quiet" in str(doubtful.note)
    assert (rated("z float32", seen).gmacs, rated("z float32", seen).note) == (None, "crashed")


def test_old_machines_are_asked_for_fewer_rows() -> None:
    assert _probe_peaks._rows({"x float32": 1e-6}, 2) == 1024
    assert _probe_peaks._rows({"x float32": 0.04 / 16}, 2) == 256
    assert _probe_peaks._rows({"x float32": 10.0, "x int8": 1e-6}, 2) == 64
    assert _probe_peaks._rows({}, 2) == 64


def test_dispatch_is_the_slope_and_never_negative() -> None:
    assert _slope("x", [1e-5] * 8, [1e-5 + 32e-6] * 8).seconds == pytest.approx(1e-6)
    assert _slope("x", [1e-5] * 8, [1e-5 + 32e-6] * 8).reliable
    backwards = _slope("x", [2e-5] * 8, [1e-5] * 8)
    assert (backwards.seconds, backwards.reliable) == (0.0, False)


def test_a_quantized_chain_is_not_the_float_one(measured: Measured) -> None:
    by_label = {subject.label: subject for subject in measured[2]}
    floats, halves = (by_label[f"openvino {d}"].expected for d in ("float32", "bfloat16"))
    assert not np.array_equal(floats, halves)

"""The table of techniques: its rows, what it claims, and its page, which is its JSON in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from burnish.bench import Race, Timing
from burnish.metrics import top1

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "benchmarks" / "results" / "quantize_table.json"
PAGE = ROOT / "docs" / "methods" / "quantize_table.md"


@pytest.mark.parametrize("kind", ["convolutional", "transformer", "recurrent"])
def test_every_row_has_a_name_of_its_own(load: Any, kind: str) -> None:
    entries = load("table.entries").entries(kind)
    assert len({entry.label for entry in entries}) == len(entries)
    assert {entry.runtime for entry in entries} == {"onnxruntime", "openvino"}
    assert not any(entry.steps for entry in entries if entry.precision == "float32")


def _model(load: Any, n: int, groups: int | None = None) -> Any:
    models = load("models.model")
    labels = None if groups is None else torch.arange(n) % groups
    batch = models.Batch((torch.zeros(n, 1),), torch.zeros(n, dtype=torch.long), labels)
    return models.Model("m", "M", "", "1", torch.nn.Identity(), (), (batch,), (batch,), top1)


def _row(scores: np.ndarray[Any, Any]) -> dict[str, Any]:
    given = {"scores": scores.tolist(), "classes": scores.astype(int).tolist()}
    return {"failed": None, "size_mb": 1.0, "int8": [1, 2], "seconds": {"a": 1.0}, "answers": given}


def _rows(load: Any, n: int, lost: int, groups: int | None = None) -> list[dict[str, Any]]:
    """A float artifact, static int8 with `lost` answers lost and twice as fast, one that failed."""
    entry, document = load("table.entries").Entry, load("table.document")
    entries = [
        entry("float32", "onnxruntime", "float32"),
        entry("static", "onnxruntime", "int8"),
        entry("static, all refinements", "openvino", "int8"),
    ]
    right = np.ones(n)
    wrong = np.r_[np.zeros(lost), np.ones(n - lost)]
    found = {entries[0].label: _row(right), entries[1].label: _row(wrong)}
    found[entries[2].label] = {"failed": "NoEffect: nothing\nto do"}
    seconds = {entries[0].label: 2e-3, entries[1].label: 1e-3}
    timings = tuple(
        Timing(label, t, t, t, t, 1 / t, 0.0, 0, 0, 12, None, "") for label, t in seconds.items()
    )
    race = Race(timings, {label: (t,) * 12 for label, t in seconds.items()}, 0.95)
    baseline = _row(right)["answers"]
    rows: list[dict[str, Any]] = document.rows_of(
        _model(load, n, groups), entries, found, baseline, race
    )
    return rows


def test_rows_hold_quality_agreement_and_ratio(load: Any) -> None:
    plain, static, failed = _rows(load, 1000, 5)
    assert plain["latency"]["ratio"]["value"] == pytest.approx(1)
    assert static["latency"]["ratio"]["value"] == pytest.approx(0.5)
    assert static["latency"]["ratio"]["reference"] == plain["label"]
    assert static["quality"]["value"] == pytest.approx(0.995)
    assert static["agreement"] == pytest.approx(0.995)
    assert static["verdict"]["difference"] == pytest.approx(-0.005)
    assert failed["failed"].startswith("NoEffect")
    assert failed["quality"] is None


@pytest.mark.parametrize(
    ("lost", "groups", "state", "met"),
    [
        (0, None, "holds", True),
        (8, None, "cannot tell", True),
        (60, None, "fails", False),
        (0, 3, "cannot tell", True),  # three people are too few for a verdict
    ],
)
def test_a_claim_is_met_when_it_holds_or_says_what_would_tell(
    load: Any, lost: int, groups: int | None, state: str, met: bool
) -> None:
    rows = _rows(load, 1000, lost, groups)
    static, failed = load("table.document").claims_of(rows)
    assert static["state"] == state
    assert static["met"] is met
    assert (static["needed"] is not None) == (state == "cannot tell")
    assert not failed["met"]
    assert failed["missing"].startswith("NoEffect")


def test_the_page_tells_every_row_and_every_failure(load: Any) -> None:
    rows = _rows(load, 1000, 5)
    document = {
        "created": "2026-11-22T00:00:00",
        "environment": {
            "machine": {"cpu": "CPU", "isa": ["avx2"]},
            "versions": {"torch": "1", "onnxruntime": "2", "openvino": "3"},
            "commit": None,
        },
        "settings": {"threads": 2},
        "models": {
            "m": {
                "title": "M",
                "size": "1",
                "calibration": 8,
                "n": 1000,
                "groups": None,
                "baseline": 1.0,
            }
        },
        "rows": rows,
        "claims": load("table.document").claims_of(rows),
    }
    page = load("table.page").page(document)
    assert "| static, onnxruntime | 0.9950 | -0.50 (" in page
    assert "0.50 (0.50 to 0.50)" in page
    assert "- static, all refinements, openvino: NoEffect: nothing\n" in page
    assert "**missed**" in page


def test_rows_measured_again_take_the_place_of_the_first_and_new_ones_stand_behind(
    load: Any,
) -> None:
    def result(figure: float, *techniques: str) -> dict[str, Any]:
        rows = [
            {"model": "gru", "technique": name, "label": f"{name}, openvino", "figure": figure}
            for name in techniques
        ]
        claims = [{"claim": "gru, static: kept", "met": figure > 1}]
        environment = {"commit": "abc"}
        return {"models": ["gru"], "rows": rows, "claims": claims, "environment": environment}

    renewed = load("table.document").renewed
    later = result(2.0, "float32", "static", "QAT")
    found = renewed(result(1.0, "float32", "static", "dynamic"), later)
    assert [row["figure"] for row in found["rows"]] == [1.0, 2.0, 1.0, 2.0]
    assert found["claims"] == later["claims"]
    assert found["renewed"] == [
        {"commit": "abc", "rows": ["gru: static, openvino"], "new": ["gru: QAT, openvino"]}
    ]
    assert renewed(result(1.0, "static"))["renewed"] == []


@pytest.mark.parametrize(
    ("loss", "trained", "met"), [(0.02, 0.012, False), (0.02, 0.008, True), (0.004, 0.01, None)]
)
def test_training_regains_half_of_what_static_loses(
    load: Any, loss: float, trained: float, met: bool | None
) -> None:
    def row(technique: str, lost: float) -> dict[str, Any]:
        label = f"{technique}, openvino"
        found = {"state": "fails", "difference": -lost, "low": 0, "high": 0, "n": 1, "needed": 1}
        named = {"model": "gru", "technique": technique, "runtime": "openvino", "label": label}
        return {**named, "failed": None, "verdict": found}

    document = load("table.document")
    _, *claims = document.claims_of([row("static", loss), row("QAT", trained)])
    assert [item["met"] for item in claims] == ([] if met is None else [met])
    if claims:
        assert claims[0]["value"] == pytest.approx(1 - trained / loss)
        assert "| gru, QAT, openvino | 2.00 |" in load("table.page")._claims(claims)


def test_the_committed_page_is_the_committed_result(load: Any) -> None:
    if not RESULT.exists():
        pytest.skip("no result of quantize_table.py is committed")
    script = load("quantize_table")
    written = script.document(RESULT)
    assert PAGE.read_text(encoding="utf-8") == load("table.page").page(written)

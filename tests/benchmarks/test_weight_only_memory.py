"""The benchmark of memory: its phases run on a small model, and what it calls met."""

from __future__ import annotations

import sys
from typing import Any

import pytest


def found(parameters: float, phase: float, worker: float) -> dict[str, Any]:
    return {
        "parameters": parameters,
        "phases": [{"phase": "quantize", "peak_gb": phase}],
        "workers": [{"runtime": "openvino", "peak_gb": worker}],
    }


@pytest.mark.parametrize(
    ("measured", "met"),
    [
        (found(1.02e9, 7.0, 1.0), True),
        (found(1.02e9, 16.5, 1.0), False),
        (found(1.02e9, 7.0, 17.0), False),
        (found(4e6, 0.5, 0.1), False),
    ],
)
def test_the_claim_is_about_a_billion_and_the_largest_peak(
    load: Any, measured: dict[str, Any], met: bool
) -> None:
    (claim,) = load("weight_only_memory").document(measured, quick=False)["claims"]
    assert claim["met"] is met


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_every_phase_is_measured(load: Any) -> None:
    script = load("weight_only_memory")
    done = script.measure(script.QUICK, ["onnxruntime", "openvino"])
    assert [row["phase"].split()[0] for row in done["phases"]] == [
        *("the", "quantize", "export", "quantize", "export")
    ]
    assert all(row["peak_gb"] >= row["before_gb"] > 0 for row in done["phases"])
    for worker in done["workers"]:
        assert worker["finite"]
        assert worker["file_gb"] * 1e9 < 0.2 * 4 * done["parameters"]

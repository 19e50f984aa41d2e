"""What the benchmark of peaks calls a reversed ranking and a met claim."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from burnish.profile import Probe
from tests.profile.probes import made_up


def with_peak(probe: Probe, runtime: str, dtype: str, **changes: Any) -> Probe:
    peaks = tuple(
        replace(row, **changes) if (row.runtime, row.dtype) == (runtime, dtype) else row
        for row in probe.peaks
    )
    return replace(probe, peaks=peaks)


def test_only_pairs_that_lie_apart_both_times_are_reversed(load: Any) -> None:
    reversals = load("probe_peaks").reversals
    one = made_up()
    assert reversals(one, one) == []
    near = with_peak(one, "eager", "float32", gmacs=101.0, low=97.0, high=105.0)
    assert reversals(one, near) == []
    over = with_peak(one, "eager", "float32", gmacs=200.0, low=190.0, high=210.0)
    assert reversals(one, over) == ["openvino float32 and eager float32"]
    gone = with_peak(one, "eager", "float32", gmacs=None, low=None, high=None)
    assert reversals(one, gone) == []


@pytest.mark.parametrize(("hand", "met"), [(100.0, True), (116.0, True), (120.0, False)])
def test_a_claim_is_met_within_its_bound_of_what_was_around(
    load: Any, hand: float, met: bool
) -> None:
    peaks = load("probe_peaks")
    names = set(peaks.PAIRS.values())
    hands = [dict.fromkeys(names, hand + shift) for shift in (-5.0, 5.0)]
    rows = peaks.rows_of([made_up()], hands)
    row = next(row for row in rows if (row["runtime"], row["dtype"]) == ("openvino", "float32"))
    assert row["ratio"] == pytest.approx(100.0 / hand)
    claims = {claim["claim"]: claim["met"] for claim in peaks.claims_of(rows, [made_up()])}
    assert claims["openvino float32 is within 15% of float32, oneDNN by hand"] is met
    assert all("onnxruntime" not in claim for claim in claims)


def test_what_another_library_computes_is_compared_and_not_claimed(load: Any) -> None:
    peaks = load("probe_peaks")
    probe = made_up()
    known = tuple(
        replace(row, how="FullyConnected:gemm_mlas_f32") if row.dtype == "float32" else row
        for row in probe.capabilities
    )
    hands = [dict.fromkeys(set(peaks.PAIRS.values()), 100.0)] * 2
    rows = {
        (row["runtime"], row["dtype"]): row["claimed"]
        for row in peaks.rows_of([replace(probe, capabilities=known)], hands)
    }
    assert rows["openvino", "float32"] is False
    assert rows["openvino", "int8"] is True

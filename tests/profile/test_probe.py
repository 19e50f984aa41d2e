"""The value: what it answers, its JSON, and files that are no probe."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from burnish.errors import Damaged
from burnish.profile._probe import Probe
from tests.profile.probes import made_up


def test_peaks_are_multiply_accumulates_a_second() -> None:
    probe = made_up()
    assert probe.peak("openvino", "int8") == 400e9
    assert probe.peak("eager", "int8") is None
    assert probe.peak("onnxruntime", "float32") is None


@pytest.mark.parametrize(
    ("num_bytes", "rate"),
    [(0, 300e9), (65_536, 300e9), (65_537, 150e9), (3_000_000, 20e9), (10**15, 20e9)],
)
def test_the_bandwidth_is_that_of_the_nearest_level_that_holds_it(
    num_bytes: int, rate: float
) -> None:
    probe = made_up()
    assert probe.bandwidth(num_bytes) == rate
    shuffled = replace(probe, bandwidths=probe.bandwidths[::-1])
    assert shuffled.bandwidth(num_bytes) == rate


def test_what_was_not_measured_is_none() -> None:
    nothing = replace(made_up(), bandwidths=(), dispatches=(), capabilities=())
    assert nothing.bandwidth(1) is None
    assert nothing.dispatch("eager") is None
    assert nothing.capability("eager", "float32") is None


def test_dispatch_and_capability_are_found_by_name() -> None:
    probe = made_up()
    assert probe.dispatch("eager") == 3e-6
    found = probe.capability("openvino", "bfloat16")
    assert found is not None
    assert found.state == "emulated"


def test_json_there_and_back() -> None:
    probe = made_up()
    record = json.loads(json.dumps(probe.to_json()))
    assert Probe.from_json(record) == probe
    assert set(record) == {
        *("schema", "environment", "created", "threads", "masks", "peaks"),
        *("bandwidth", "dispatch", "capabilities", "notes"),
    }


def broken() -> list[dict[str, Any]]:
    whole = made_up().to_json()
    return [
        {},
        {**whole, "schema": 2},
        {**whole, "peaks": 3},
        {**whole, "peaks": [{"runtime": "eager"}]},
        {**whole, "masks": None},
        {**whole, "threads": "two"},
        {**whole, "bandwidth": [{**whole["bandwidth"][0], "gb_per_s": -1.0}]},
        {**whole, "dispatch": [{**whole["dispatch"][0], "seconds": float("nan")}]},
        {**whole, "dispatch": [{**whole["dispatch"][0], "seconds": "soon"}]},
    ]


@pytest.mark.parametrize("record", broken(), ids=range(9))
def test_what_is_no_probe_is_refused(record: dict[str, Any]) -> None:
    with pytest.raises(Damaged):
        Probe.from_json(record)

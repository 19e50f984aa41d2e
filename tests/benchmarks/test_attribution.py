"""The benchmark of attribution: what a row says, and when a claim is met."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from burnish.bundle import Counts, OpTime
from burnish.graph import trace


@pytest.fixture(scope="module")
def attribution(load: Any) -> Any:
    return load("attribution")


def counts(whole: float) -> Counts:
    """One millisecond in the linear layer, and a tenth in a copy that nobody wants."""
    return Counts(
        (OpTime("gemm", "Gemm", 1e-3, ("linear",)), OpTime("copy", "Reorder", 1e-4)), whole, 2e-3
    )


@pytest.mark.parametrize(("whole", "met"), [(1.04e-3, True), (1.2e-3, False), (0.9e-3, False)])
def test_a_row_says_where_all_of_the_time_is(attribution: Any, whole: float, met: bool) -> None:
    traced = trace(nn.Linear(3, 2).eval(), (torch.zeros(2, 3),))
    rounds = [counts(whole * (1 + noise)) for noise in (0.0, 0.01, -0.01)]
    row = attribution.row_of("lite0", "onnxruntime", traced, rounds, 2e-3)
    assert row["operators_ms"] == pytest.approx(1.0)
    assert row["rest_ms"] == pytest.approx(0.1)
    assert row["outside_ms"] == pytest.approx(1e3 * whole - 1.1)
    assert row["share"] == pytest.approx(1e-3 / whole)
    assert row["low"] < row["share"] < row["high"]
    assert row["share_of_race"] == pytest.approx(0.5)
    assert [item["name"] for item in row["rest"]] == ["copy"]
    assert attribution.claim(row)["met"] is met
    assert "onnxruntime" in attribution.table({"rows": [row]})


def test_a_part_of_the_networks_is_not_written_as_the_whole(attribution: Any) -> None:
    assert attribution.parse([]).output == attribution.RESULT
    assert attribution.parse(["--quick"]).output is None
    assert attribution.parse(["--network", "gru"]).output is None

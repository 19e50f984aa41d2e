"""The networks of drawn widths, what is claimed of errors, and the committed result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

RESULT = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "latency_table.json"
# 0.85 M (He et al., 2015, table 6), 4.65 M (the package's), 22.6 M without the pooler.
NUM_PARAMETERS = {"resnet56": 0.853e6, "lite0": 4.652e6, "minilm": 22.59e6}


@pytest.mark.parametrize("name", NUM_PARAMETERS)
def test_the_original_has_as_many_parameters_as_is_published(load: Any, name: str) -> None:
    network = load("latency.networks").draw(name, None).network
    found = sum(parameter.numel() for parameter in network.parameters())
    assert found == pytest.approx(NUM_PARAMETERS[name], rel=0.005)


@pytest.mark.parametrize("name", NUM_PARAMETERS)
def test_widths_are_drawn_by_the_seed_between_a_quarter_and_the_whole(load: Any, name: str) -> None:
    draw = load("latency.networks").draw
    whole, drawn = draw(name, None).widths, draw(name, 3)
    assert drawn.widths == draw(name, 3).widths != draw(name, 4).widths
    assert len(drawn.widths) == len(whole)
    assert all(
        width <= most and width >= 0.25 * most - 1
        for width, most in zip(drawn.widths, whole, strict=True)
    )
    with torch.inference_mode():
        assert drawn.network(*drawn.example).isfinite().all()


def test_widths_are_multiples_of_the_step_that_is_asked_for(load: Any) -> None:
    draw = load("latency.networks").draw
    assert all(width % 8 == 0 for width in draw("lite0", 5, 8).widths)
    assert any(width % 8 for width in draw("lite0", 5, 1).widths)


def test_a_claim_is_met_or_missed_by_the_errors(load: Any) -> None:
    claims = load("latency_table").claims
    rows = [
        {"runtime": "openvino", "network": name, "error": error}
        for name, error in (("lite0", 0.05), ("lite0", -0.3), ("minilm", -0.02))
    ]
    found = {claim["claim"]: claim for claim in claims(rows)}
    worst = found["worst error of 3 predictions on openvino, all networks"]
    assert worst["value"] == pytest.approx(0.3)
    assert not worst["met"]
    assert found["median error of 3 predictions on openvino, all networks"]["met"]
    assert len(found) == 6


def test_the_committed_claims_follow_from_its_rows(load: Any) -> None:
    if not RESULT.is_file():
        pytest.skip("benchmarks/results/latency_table.json is not there yet")
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    assert result["claims"] == load("latency_table").claims(result["rows"])
    assert {row["network"] for row in result["rows"]} == set(NUM_PARAMETERS)
    for row in result["rows"]:
        assert row["error"] == pytest.approx(row["predicted_ms"] / row["measured_ms"] - 1)

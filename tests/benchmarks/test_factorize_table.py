"""What the table of factorization works out from logits, on made-up ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch


def test_a_row_is_paired_with_the_float_network(load: Any) -> None:
    script = load("factorize_table")
    labels = torch.tensor([0, 1, 2, 0] * 10)
    whole = torch.nn.functional.one_hot(labels, 3).float()
    wrong = whole.clone()
    wrong[:4] = torch.tensor([0.0, 0.0, 9.0])
    row = script.row("resnet20", "weight", 0.3, wrong, whole, labels)
    assert (row["top1"], row["agreement"]) == (0.925, 0.925)
    difference, low, high = row["difference"]
    assert difference == pytest.approx(-0.075)
    assert low < difference < high < 0.05
    assert row["divergence"] > 0
    same = script.row("resnet20", None, None, whole, whole, labels)
    assert same["divergence"] == 0


def test_a_claim_is_met_where_activations_lose_less(load: Any) -> None:
    def row(criterion: str | None, ratio: float | None, divergence: float) -> dict[str, Any]:
        return {
            "model": "minilm", "ratio": ratio, "criterion": criterion, "divergence": divergence,
        }  # fmt: skip

    rows = [row(None, None, 0.0), row("activation", 0.3, 0.1), row("weight", 0.3, 0.4)]
    rows += [row("activation", 0.45, 0.5), row("weight", 0.45, 0.4)]
    first, second = load("factorize_table").claims(rows)
    assert (first["met"], second["met"]) == (True, False)
    assert first["value"] == pytest.approx(0.25)

"""What the comparison of 4-bit weights works out from its measurements, on made-up ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from burnish.metrics import top1


@pytest.fixture
def model() -> Any:
    from types import SimpleNamespace

    targets = [torch.tensor([0, 1]), torch.tensor([2])]
    return SimpleNamespace(
        metric=top1, validation=[SimpleNamespace(target=target) for target in targets]
    )


def test_scores_of_each_sample(load: Any, model: Any) -> None:
    runs = load("weights.runs")
    whole = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]], np.float32))
    found = np.log(np.array([[0.5, 0.25, 0.25], [0.8, 0.1, 0.1], [0.2, 0.6, 0.2]], np.float32))
    judged = runs.judged(found + 3.0, whole, model)
    assert judged["top1"].tolist() == [1.0, 0.0, 0.0]
    assert judged["agreement"].tolist() == [1.0, 0.0, 0.0]
    wanted = [0.0, -0.7 * np.log(8.0), -0.4 * np.log(3.0)]
    np.testing.assert_allclose(judged["closeness"], wanted, atol=1e-6)


def entry(seed: int, shift: float) -> dict[str, np.ndarray[Any, Any]]:
    base, own = np.random.default_rng(0), np.random.default_rng(seed)
    right = (base.random(400) < 0.9).astype(float)
    return {
        "top1": right,
        "agreement": right,
        "closeness": -np.abs(base.normal(size=400)) + shift + 0.01 * own.normal(size=400),
    }


def test_better_than_to_nearest_has_to_be_certain(load: Any) -> None:
    claims = load("weights.claims")
    found = {
        "burnish nearest on onnxruntime": entry(1, 0.0),
        "burnish gptq on onnxruntime": entry(2, 0.2),
        "burnish hqq on onnxruntime": entry(3, 0.0),
    }
    rows = {row["claim"]: row for row in claims.rounding_claims(found)}
    text = "4-bit weights by {} beat those to nearest on {}: {}"
    gained = rows[text.format("gptq", "onnxruntime", "closeness")]
    assert gained["met"]
    assert gained["value"] == pytest.approx(-0.2, abs=0.01)
    assert gained["low"] < gained["value"] < gained["high"] < 0
    assert not rows[text.format("hqq", "onnxruntime", "closeness")]["met"]
    assert not rows[text.format("gptq", "onnxruntime", "top1")]["met"]  # no difference at all
    assert rows[text.format("gptq", "openvino", "top1")]["missing"]


def test_no_worse_than_a_peer_need_not_be_certain(load: Any) -> None:
    claims = load("weights.claims")
    found = {
        "burnish gptq on onnxruntime": entry(1, 0.0),
        "onnxruntime gptq on onnxruntime": entry(2, 0.0005),
        "burnish gptq on openvino": entry(1, 0.0),
        "nncf gptq on openvino": entry(2, 0.3),
    }
    rows = {row["claim"]: row for row in claims.quality_claims(found)}
    assert rows["gptq: ours is not worse than onnxruntime's on onnxruntime: closeness"]["met"]
    assert not rows["gptq: ours is not worse than nncf's on openvino: closeness"]["met"]
    assert rows["gptq: ours is not worse than nncf's on openvino: top1"]["met"]
    assert not rows["hqq: ours is not worse than onnxruntime's on onnxruntime: top1"]["met"]


def test_times_are_compared_by_turns(load: Any) -> None:
    claims = load("weights.claims")
    seconds = {
        "burnish gptq": [2.0, 6.0],
        "onnxruntime gptq": [4.0, 12.0],
        "burnish hqq": [1.0],
        "nncf gptq": [],
    }
    hqq, onnxruntime, nncf = claims.time_claims(seconds)
    assert hqq["missing"]
    assert nncf["missing"]
    assert onnxruntime["met"]
    assert onnxruntime["value"] == pytest.approx(0.5)


def test_a_quick_run_writes_no_result(load: Any) -> None:
    script = load("weight_only_vs_peers")
    assert script.parse(["--quick"]).output is None
    assert script.parse([]).output.name == "weight_only_vs_peers.json"

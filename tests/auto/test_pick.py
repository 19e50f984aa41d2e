"""The pick follows the measured times, the limits and the verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from burnish.auto import Result
from burnish.bundle import Bundle
from burnish.errors import Infeasible, InvalidInput
from burnish.goal import Target
from burnish.metrics import Metric
from tests.auto.made_up import (
    MadeUp,
    batches,
    by_precision,
    candidate,
    data,
    goal,
    keys_of,
    quietly,
    task,
    trained,
)

pytestmark = pytest.mark.usefixtures("quick")
FLOAT, INT8 = "onnxruntime float32, 1 thread", "onnxruntime int8, 1 thread"


def run(
    folder: Path, float32: float = 2.0, int8: float = 1.0, noise: float = 0.002, **settings: Any
) -> Any:
    """The record of a run on the trained network."""
    bench = MadeUp(by_precision(float32, int8), noise=noise)
    return quietly(trained(), goal(**settings), bench, folder / "run").report


# --- time


def test_int8_where_it_is_faster(tmp_path: Path) -> None:
    record = run(tmp_path, 2.0, 1.0)
    assert record["pick"]["label"] == INT8
    assert any("2.00 times as fast (" in why for why in record["pick"]["why"])


def test_float32_where_int8_is_slower_and_it_says_so(tmp_path: Path) -> None:
    record = run(tmp_path, 1.0, 1.5)
    assert record["pick"]["label"] == FLOAT
    assert record["pick"]["state"] == "verified"
    assert any("nothing acceptable is faster" in why for why in record["pick"]["why"])
    assert Bundle.open(tmp_path / "run" / "bundle").artifact.precision == "float32"
    assert candidate(record, INT8)["accepted"]


def test_a_tie_inside_the_noise_goes_to_the_simpler(tmp_path: Path) -> None:
    record = run(tmp_path, 1.0, 0.99, noise=0.2)
    ratio = candidate(record, INT8)["ratio"]
    assert ratio["value"] < 1 < ratio["high"]
    assert record["pick"]["label"] == FLOAT
    assert any("within the noise, and less simple" in why for why in record["pick"]["why"])


def test_a_small_gain_beyond_the_noise_is_a_gain(tmp_path: Path) -> None:
    assert run(tmp_path, 1.0, 0.97)["pick"]["label"] == INT8


def test_a_tie_between_threads_goes_to_fewer(tmp_path: Path) -> None:
    record = run(tmp_path, 2.0, 1.0, noise=0.2, threads=None)
    assert record["pick"]["label"] == INT8


def test_all_cores_where_they_help(tmp_path: Path) -> None:
    bench = MadeUp(lambda key, threads: by_precision(2, 1)(key, threads) / threads)
    wanted = goal(threads=None)
    record = quietly(trained(), wanted, bench, tmp_path / "run").report
    most = max(item["threads"] for item in record["candidates"])
    assert most > 1 or len(record["candidates"]) == 2
    assert record["pick"]["label"].endswith(f", {most} thread{'s' * (most > 1)}")
    assert Bundle.open(tmp_path / "run" / "bundle").artifact.options.threads == most


def test_the_stated_threads_are_kept(tmp_path: Path) -> None:
    record = run(tmp_path, threads=3)
    assert {item["threads"] for item in record["candidates"]} == {3}


def test_timing_is_done_at_the_targets_batch(tmp_path: Path) -> None:
    seen = []

    class Looking(MadeUp):
        def race(self, artifacts: Any, inputs: Any, terms: Any, progress: Any) -> Any:
            seen.append(({len(array) for array in inputs.values()}, terms.batch))
            return super().race(artifacts, inputs, terms, progress)

    wanted = goal()
    target = Target(runtimes=("onnxruntime",), threads=1, batch=5)
    quietly(trained(), wanted, Looking(by_precision(2, 1)), tmp_path / "run", target=target)
    assert seen
    assert all(item == ({5}, 5) for item in seen)


# --- limits and objectives


def test_a_limit_on_latency_is_kept(tmp_path: Path) -> None:
    record = run(tmp_path, 2.0, 1.0, limits={"latency_ms": 1.5}, minimise="size")
    assert record["pick"]["label"] == INT8
    refused = candidate(record, FLOAT)
    assert not refused["accepted"]
    assert refused["reason"] == "latency_ms is 2, the limit 1.5"


def test_a_limit_on_size_is_kept(tmp_path: Path) -> None:
    """The int8 file of this tiny network is the larger one: it holds the scales too."""
    sizes = {item["label"]: item["size_mb"] for item in run(tmp_path)["candidates"]}
    assert sizes[FLOAT] < sizes[INT8]
    between = (sizes[FLOAT] + sizes[INT8]) / 2
    record = run(tmp_path / "limited", 2.0, 1.0, limits={"size_mb": between})
    assert record["pick"]["label"] == FLOAT
    told = f"size_mb is {sizes[INT8]:.3g}, the limit {between:g}"
    assert candidate(record, INT8)["reason"] == told


def test_the_least_size_is_picked_whatever_the_time(tmp_path: Path) -> None:
    record = run(tmp_path, 2.0, 1.0, minimise="size")
    assert record["pick"]["label"] == FLOAT
    assert "nothing acceptable is of less size than the best float32 artifact" in " ".join(
        record["pick"]["why"]
    )


def test_limits_nobody_can_meet(tmp_path: Path) -> None:
    bench = MadeUp(by_precision(2, 1))
    with pytest.raises(Infeasible) as caught:
        quietly(trained(), goal(limits={"latency_ms": 0.5}), bench, tmp_path / "run")
    message, result = str(caught.value), caught.value.result
    assert "no candidate meets the budget" in message
    assert f"{INT8}: latency_ms is 1, the limit 0.5" in message
    assert str(tmp_path / "run") in message
    assert isinstance(result, Result)
    assert result.pick == ""
    assert result.report["pick"] is None
    assert candidate(result.report, INT8)["quality"]["value"] > 0.9
    assert INT8 in str(result)
    assert (tmp_path / "run" / "report.json").exists()
    assert not (tmp_path / "run" / "bundle").exists()
    with pytest.raises(InvalidInput, match="nothing was picked"):
        result.save(tmp_path / "out")
    raced = list(bench.raced)
    with pytest.raises(Infeasible):
        quietly(trained(), goal(limits={"latency_ms": 0.5}), bench, tmp_path / "run")
    assert bench.raced == raced


# --- verdicts


def small(**budget: Any) -> Any:
    """Too few samples to tell a drop of half a point."""
    return goal(task(n=60), max_drop=0.005, **budget)


def test_undecided_is_not_picked_unless_accepted(tmp_path: Path) -> None:
    bench = MadeUp(by_precision(2, 1))
    record = quietly(trained(), small(), bench, tmp_path / "refused").report
    assert record["pick"]["label"] == FLOAT
    refused = candidate(record, INT8)
    assert refused["verdict"]["state"] == "cannot tell"
    assert refused["verdict"]["needed"] > 60
    assert refused["reason"].startswith("quality: cannot tell (")
    assert any("nothing reverted, even float32" in note["what"] for note in record["recovery"])


def test_undecided_is_picked_where_accepted(tmp_path: Path) -> None:
    bench = MadeUp(by_precision(2, 1))
    record = quietly(trained(), small(accept_undecided=True), bench, tmp_path / "run").report
    assert record["pick"]["label"] == INT8
    assert record["pick"]["state"] == "undecided, accepted"
    assert record["recovery"] == []


class Counting:
    """A split that counts its passes."""

    def __init__(self, found: list[Any]) -> None:
        self.found = found
        self.passes = 0

    def __iter__(self) -> Any:
        self.passes += 1
        return iter(self.found)


def test_the_test_data_is_answered_once_by_the_pick_alone(tmp_path: Path) -> None:
    answered: list[int] = []

    def correct(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        answered.append(len(target))
        return (output.argmax(1) == target).float()

    hidden = Counting(batches(data("test", 350), 350))
    watched = task(test=hidden, metric=Metric("correct", correct, "binary"))
    wanted = goal(watched)
    record = quietly(trained(), wanted, MadeUp(by_precision(2, 1)), tmp_path / "run").report
    assert record["pick"]["label"] == INT8
    # The float model and the pick, last of all; the passes before look at inputs only.
    assert [n for n in answered if n == 350] == answered[-2:]
    assert answered.count(350) == 2
    passes = hidden.passes
    quietly(trained(), wanted, MadeUp(by_precision(2, 1)), tmp_path / "run")
    assert answered.count(350) == 2
    assert hidden.passes - passes == 2  # the check of the data, and its second look


def test_a_pick_that_fails_on_the_test_data_is_not_verified(tmp_path: Path) -> None:
    """Images so faint that int8 sees none of them; a network without biases sees them all."""
    images, labels = data("test", 400)
    wanted = goal(task(test=batches((2e-3 * images, labels))))
    bench = MadeUp(by_precision(2, 1))
    record = quietly(trained(biased=False), wanted, bench, tmp_path / "run").report
    assert record["pick"]["label"] == INT8
    assert candidate(record, INT8)["verdict"]["state"] == "holds"
    assert record["pick"]["state"] == "not verified"
    test = record["pick"]["test"]
    assert test["verdict"]["state"] == "fails"
    assert test["baseline"]["value"] > 0.9 > test["quality"]["value"]
    assert any("nothing else tried" in why for why in record["pick"]["why"])
    manifest = Bundle.open(tmp_path / "run" / "bundle").manifest
    assert manifest["metrics"]["state"] == "not verified"
    assert [key for key in keys_of(tmp_path / "run") if key.startswith("test:")] == [
        "test:onnxruntime-int8"
    ]


def test_without_test_data_it_says_so(tmp_path: Path) -> None:
    wanted = goal(task(test=None))
    record = quietly(trained(), wanted, MadeUp(by_precision(2, 1)), tmp_path / "run").report
    assert record["pick"]["label"] == INT8
    assert record["pick"]["state"] == "no test data"
    assert record["pick"]["test"] is None
    assert any("no test data" in why for why in record["pick"]["why"])

"""Models that are called otherwise than with one batch of images, through the whole job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from burnish.bundle import Bundle, Worker, verify
from burnish.goal import Budget, Goal, Inputs, Target, Task
from burnish.metrics import Metric, top1
from burnish.testing import Tiny, catalogue
from tests.auto.made_up import (
    Exports,
    MadeUp,
    by_precision,
    candidate,
    data,
    quietly,
    task,
    trained,
)

FLOAT, INT8 = "onnxruntime float32, 1 thread", "onnxruntime int8, 1 thread"
BY_NAME = {tiny.name: tiny for tiny in catalogue()}


def wanted(given: Task, runtimes: tuple[str, ...] = ("onnxruntime",), **budget: Any) -> Goal:
    settings = {"max_drop": 0.02, "accept_undecided": True, "minutes": None, **budget}
    return Goal(given, Target(runtimes=runtimes, threads=1), Budget(**settings))


# --- keywords, two dynamic axes, a dataclass out


def labelled(tiny: Tiny, seeds: range, lengths: tuple[int, ...] = (6, 9, 5)) -> list[Any]:
    """Batches of the model's own answers, of several lengths, as Hugging Face gives them."""
    model, found = tiny.build(), []
    for seed in seeds:
        inputs = tiny.inputs(20, seed, length=lengths[seed % len(lengths)])
        labels = tiny.call(model, inputs).logits.argmax(1)
        found.append({**inputs.kwargs, "labels": labels})
    return found


@pytest.fixture(scope="module")
def encoder() -> Task:
    tiny = BY_NAME["encoder"]
    return Task(
        tiny.inputs(),
        top1,
        calibration=labelled(tiny, range(4)),
        validation=labelled(tiny, range(10, 25)),
        test=labelled(tiny, range(30, 45)),
    )


def test_keywords_dynamic_lengths_and_a_dataclass(
    quick: Exports, tmp_path: Path, encoder: Task
) -> None:
    model = BY_NAME["encoder"].build()
    bench = MadeUp(by_precision(2, 1))
    result = quietly(model, wanted(encoder, max_drop=0.05), bench, tmp_path / "run")
    float32, int8 = (candidate(result.report, label) for label in (FLOAT, INT8))
    assert float32["quality"]["value"] == 1.0
    assert float32["agreement"] == 1.0
    assert int8["agreement"] > 0.9
    assert int8["num_int8"] > 4
    reasons = {row["kind"]: row["reason"] for row in result.report["coverage"][INT8]}
    assert reasons["embedding"]
    assert reasons["layer_norm"]
    assert result.report["goal"]["inputs"][0]["axes"] == {"0": "batch", "1": "length"}


def test_the_bundle_takes_keywords_of_any_length(
    quick: Exports, tmp_path: Path, encoder: Task
) -> None:
    tiny = BY_NAME["encoder"]
    result = quietly(
        tiny.build(), wanted(encoder, max_drop=0.05), MadeUp(by_precision(2, 1)), tmp_path / "run"
    )
    assert verify(result.bundle).ok
    artifact = Bundle.open(result.bundle).artifact
    assert {port.name for port in artifact.inputs} == {"input_ids", "attention_mask"}
    inputs = tiny.inputs(3, 7, length=11)
    with Worker(artifact) as worker:
        outputs = worker.run({name: t.numpy() for name, t in inputs.kwargs.items()})
    assert [output.shape for output in outputs] == [(3, 5), (3, 11, 16)]


# --- time first, the batch on axis 1

STEPS = 7


def gru_error(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """[time, batch, classes] against targets [batch, time, classes]: one score a sample."""
    return (output.movedim(1, 0) - target).square().mean((1, 2))


def recurrent(tiny: Tiny) -> Task:
    model = tiny.build()

    def split(first: int, num: int) -> list[Any]:
        drawn = [tiny.inputs(20, first + i) for i in range(num)]
        return [(inputs.args[0], tiny.call(model, inputs).movedim(1, 0)) for inputs in drawn]

    return Task(
        tiny.inputs(),
        Metric("squared_error", gru_error, "continuous", higher_is_better=False),
        calibration=split(0, 3),
        validation=split(10, 5),
        test=split(20, 5),
    )


def test_time_first_recurrent(quick: Exports, tmp_path: Path) -> None:
    tiny = BY_NAME["gru"]
    bench = MadeUp(by_precision(2, 1))
    result = quietly(tiny.build(), wanted(recurrent(tiny), max_drop=0.01), bench, tmp_path / "run")
    record = result.report
    assert record["failures"] == []
    assert candidate(record, FLOAT)["quality"]["value"] == pytest.approx(0, abs=1e-10)
    assert candidate(record, FLOAT)["quality"]["n"] == 100
    assert candidate(record, FLOAT)["agreement"] is None
    int8 = candidate(record, INT8)
    assert int8["num_int8"] == 1
    rows = {row["operator"]: row for row in record["coverage"][INT8]}
    assert rows["head:linear"]["state"] == "int8"
    (gru,) = (row for row in rows.values() if row["kind"].startswith("gru"))
    assert gru["state"] == "float"
    assert gru["reason"]
    assert record["goal"]["inputs"][0]["axes"] == {"1": "batch"}
    assert record["pick"]["label"] == INT8


def test_the_time_first_bundle_takes_any_batch(quick: Exports, tmp_path: Path) -> None:
    tiny = BY_NAME["gru"]
    result = quietly(
        tiny.build(), wanted(recurrent(tiny)), MadeUp(by_precision(1, 2)), tmp_path / "run"
    )
    artifact = Bundle.open(result.bundle).artifact
    assert artifact.precision == "float32"
    assert artifact.inputs[0].shape == (STEPS, "batch", 6)
    inputs = tiny.inputs(5, 99)
    with Worker(artifact) as worker:
        (output,) = worker.run({artifact.inputs[0].name: inputs.args[0].numpy()})
    expected = tiny.call(tiny.build(), inputs).numpy()
    assert np.abs(output - expected).max() < 1e-4 * np.abs(expected).max()


def test_it_is_timed_at_the_batch_along_its_axis(quick: Exports, tmp_path: Path) -> None:
    shapes: list[tuple[int, ...]] = []

    class Looking(MadeUp):
        def race(self, artifacts: Any, inputs: Any, terms: Any, progress: Any) -> Any:
            shapes.extend(array.shape for array in inputs.values())
            return super().race(artifacts, inputs, terms, progress)

    tiny = BY_NAME["gru"]
    given = wanted(recurrent(tiny))
    target = Target(runtimes=("onnxruntime",), threads=1, batch=3)
    bench = Looking(by_precision(1, 2))
    quietly(tiny.build(), given, bench, tmp_path / "run", target=target)
    assert set(shapes) == {(STEPS, 3, 6)}


# --- metrics of other kinds, groups, hooks


def accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    return float((outputs.argmax(1) == targets).float().mean())


def test_a_metric_of_the_whole_set(quick: Exports, tmp_path: Path) -> None:
    given = wanted(task(metric=Metric("accuracy", accuracy, "set")))
    for _ in range(2):  # the second is resumed
        bench = MadeUp(by_precision(2, 1))
        record = quietly(trained(), given, bench, tmp_path / "run").report
    assert bench.raced == []
    assert record["pick"]["label"] == INT8
    assert candidate(record, INT8)["quality"]["low"] is None
    assert record["pick"]["test"]["verdict"]["state"] == "holds"


def test_samples_in_groups(quick: Exports, tmp_path: Path) -> None:
    """Four hundred samples of forty people are forty people."""

    def people(batch: Any) -> list[int]:
        return [int(1000 * image.sum()) % 40 for image in batch[0]]

    given = wanted(task(groups=people), accept_undecided=False, max_drop=0.2)
    record = quietly(trained(), given, MadeUp(by_precision(2, 1)), tmp_path / "run").report
    found = candidate(record, INT8)
    assert found["verdict"]["n"] == 400
    assert "group" in found["verdict"]["method"]


def test_a_predict_hook_surrounds_the_network(quick: Exports, tmp_path: Path) -> None:
    def predict(run: Any, batch: Any) -> torch.Tensor:
        """Both the image and its negative, a few at a time."""
        parts = [run(part) - 0.1 * run(-part) for part in batch[0].split(30)]
        return torch.cat(parts)

    given = wanted(task(predict=predict))
    record = quietly(trained(), given, MadeUp(by_precision(2, 1)), tmp_path / "run").report
    assert record["pick"]["label"] == INT8
    # Twice as many answers as samples: whose class is whose is not known.
    assert candidate(record, INT8)["agreement"] is None


def test_an_example_of_one_sample(quick: Exports, tmp_path: Path) -> None:
    given = wanted(task(inputs=Inputs(data("calibration", 64)[0][:1])))
    record = quietly(trained(), given, MadeUp(by_precision(2, 1)), tmp_path / "run").report
    assert record["pick"]["label"] == INT8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["encoder", "gru"])
def test_on_every_runtime_with_real_exports(tmp_path: Path, name: str, encoder: Task) -> None:
    tiny = BY_NAME[name]
    given = encoder if name == "encoder" else recurrent(tiny)
    runtimes = ("eager", "onnxruntime", "openvino")
    goal = wanted(given, runtimes, max_drop=0.05)
    bench = MadeUp(by_precision(2, 1))
    record = quietly(tiny.build(), goal, bench, tmp_path / "run").report
    assert record["failures"] == []
    assert {item["runtime"] for item in record["candidates"]} == set(runtimes)
    assert all(item["accepted"] for item in record["candidates"])
    assert verify(tmp_path / "run" / "bundle").ok

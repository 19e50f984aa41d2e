"""A runtime that refuses, crashes or hangs fails one candidate; the run goes on and says so."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, save

import burnish.auto._workshop as workshop
from burnish.bundle import Artifact, Worker
from burnish.errors import Infeasible, InvalidInput, RuntimeFailed, Unsupported
from burnish.metrics import Metric
from tests.auto.made_up import (
    OPERATORS,
    Exports,
    Here,
    MadeUp,
    Net,
    by_precision,
    candidate,
    goal,
    keys_of,
    quietly,
    task,
    trained,
    variant_of,
    with_outliers_at_the_input,
)

FLOAT, INT8 = "onnxruntime float32, 1 thread", "onnxruntime int8, 1 thread"


def run(folder: Path, bench: MadeUp | None = None, **settings: Any) -> Any:
    wanted = goal(task(), **settings)
    return quietly(trained(), wanted, bench or MadeUp(by_precision(2, 1)), folder / "run").report


def failed_and_went_on(record: dict[str, Any], label: str, reason: str) -> None:
    """The candidate is recorded with its reason, and float32 is picked."""
    (failure,) = record["failures"]
    assert failure["label"] == label
    assert reason in failure["reason"]
    row = candidate(record, label)
    assert row["status"] == "failed"
    assert reason in row["reason"]
    assert not row["accepted"]
    assert row["quality"] is row["latency"] is row["ratio"] is None
    assert record["pick"]["label"] == FLOAT
    assert record["pick"]["state"] == "verified"


# --- real workers


@pytest.fixture
def real_int8(quick: Exports, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A process for the int8 artifact, and none for the others."""

    def load(artifact: Artifact) -> Worker:
        return Worker(artifact, timeout=20) if artifact.precision == "int8" else Here(artifact)

    monkeypatch.setattr(workshop, "load", load)
    return monkeypatch


def test_a_file_the_runtime_refuses(
    real_int8: pytest.MonkeyPatch, quick: Exports, tmp_path: Path
) -> None:
    def garbled(graph: Any, runtime: str, folder: Path, *, precision: str) -> Artifact:
        artifact = quick(graph, runtime, folder, precision=precision)
        if precision == "int8":
            (folder / artifact.files[0]).write_bytes(b"no model at all")
        return artifact

    real_int8.setattr(workshop, "export", garbled)
    record = run(tmp_path)
    failed_and_went_on(record, "onnxruntime int8", "RuntimeFailed: onnxruntime with")
    assert "quality:onnxruntime-int8" in keys_of(tmp_path / "run")


@pytest.mark.parametrize(
    ("number", "timeout", "said"),
    [
        (signal.SIGKILL, 20.0, "crashed while running: killed by SIGKILL"),
        (signal.SIGSEGV, 20.0, "crashed while running: killed by SIGSEGV"),
        (signal.SIGSTOP, 1.0, "hung while running: no sign of life for 1 s"),
    ],
)
def test_a_worker_that_dies_or_stops_while_answering(
    real_int8: pytest.MonkeyPatch,
    tmp_path: Path,
    number: signal.Signals,
    timeout: float,
    said: str,
) -> None:
    def struck(artifact: Artifact) -> Worker:
        if artifact.precision != "int8":
            return Here(artifact)
        worker = Worker(artifact)
        worker._timeout = timeout
        os.kill(worker.pid, number)
        return worker

    real_int8.setattr(workshop, "load", struck)
    failed_and_went_on(run(tmp_path), "onnxruntime int8", said)


def test_a_failure_is_not_tried_again(real_int8: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refused(artifact: Artifact) -> Worker:
        if artifact.precision == "int8":
            raise RuntimeFailed("does not like it")
        return Here(artifact)

    real_int8.setattr(workshop, "load", refused)
    first = run(tmp_path)
    real_int8.setattr(workshop, "load", Here)
    again = run(tmp_path)
    assert again["failures"] == first["failures"]
    failed_and_went_on(again, "onnxruntime int8", "does not like it")


# --- while exporting


@pytest.mark.parametrize("error", [Unsupported("no translation"), RuntimeFailed("refused")])
def test_an_export_that_fails(
    quick: Exports, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def refuse(graph: Any, runtime: str, folder: Path, *, precision: str) -> Artifact:
        if precision == "int8":
            (folder / "half").write_text("written")
            raise error
        return quick(graph, runtime, folder, precision=precision)

    monkeypatch.setattr(workshop, "export", refuse)
    record = run(tmp_path)
    failed_and_went_on(record, "onnxruntime int8", f"{type(error).__name__}: {error}")
    left = tmp_path / "run" / "candidates" / "onnxruntime-int8"
    assert list(left.iterdir()) == []


def test_no_float_artifact_at_all(
    quick: Exports, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(graph: Any, runtime: str, folder: Path, *, precision: str) -> Artifact:
        raise Unsupported(f"nothing in {precision}")

    monkeypatch.setattr(workshop, "export", refuse)
    with pytest.raises(Infeasible, match="onnxruntime float32: Unsupported: nothing in float32"):
        run(tmp_path)
    # Without anything to compare with, int8 is not tried.
    assert "export:onnxruntime-int8" not in keys_of(tmp_path / "run")


# --- while timing


def failing(*labels: str, races: range = range(99)) -> MadeUp:
    """A machine on which some variants crash in some races."""
    bench: MadeUp

    def seconds(key: str, threads: int) -> float:
        if key in labels and len(bench.raced) - 1 in races:
            raise RuntimeFailed(f"{key} crashed", "crashed")
        return by_precision(2, 1)(key, threads)

    bench = MadeUp(seconds)
    return bench


@pytest.mark.usefixtures("quick")
def test_a_crash_in_the_race(tmp_path: Path) -> None:
    record = run(tmp_path, failing("onnxruntime-int8"))
    failed_and_went_on(record, INT8, "onnxruntime-int8 crashed")


@pytest.mark.usefixtures("quick")
def test_a_crash_in_the_last_race_is_a_failure_too(tmp_path: Path) -> None:
    """It ran before, and is not to be picked all the same."""
    record = run(tmp_path, failing("onnxruntime-int8", races=range(2, 3)))
    failed_and_went_on(record, INT8, "onnxruntime-int8 crashed")
    assert [item["label"] for item in record["candidates"]] == [FLOAT, INT8]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("races", "picked"),
    [
        (range(1, 2), INT8),  # compared in the last race
        (range(2, 3), INT8),  # compared before the last
        (range(1, 9), FLOAT),  # never compared: not picked for its time
    ],
)
def test_a_reference_that_crashes_later_leaves_what_could_be_compared(
    tmp_path: Path, races: range, picked: str
) -> None:
    record = run(tmp_path, failing("onnxruntime-float32", races=races))
    (failure,) = record["failures"]
    assert failure == {"label": FLOAT, "reason": "onnxruntime-float32 crashed"}
    assert [item["label"] for item in record["candidates"]] == [FLOAT, INT8]
    assert record["pick"]["label"] == picked


@pytest.mark.usefixtures("quick")
def test_counters_that_fail_cost_the_free_reverts_alone(tmp_path: Path) -> None:
    class Mute(MadeUp):
        def op_times(self, artifact: Artifact, inputs: Any) -> Any:
            if variant_of(artifact) == "onnxruntime-int8":
                raise RuntimeFailed("no counters today")
            return super().op_times(artifact, inputs)

    bench = Mute(by_precision(2, 1), lambda key: dict.fromkeys(OPERATORS, 1e-4))
    record = run(tmp_path, bench)
    assert record["pick"]["label"] == INT8
    assert record["failures"] == [{"label": INT8, "reason": "no counters today"}]
    assert [item["label"] for item in record["candidates"]] == [FLOAT, INT8]


# --- answers that are no answers


class Wrong(Here):
    """An int8 or float artifact whose outputs are spoilt."""

    precision = "int8"

    def run(self, inputs: Any) -> list[Any]:
        outputs = super().run(inputs)
        if self.artifact.precision == self.precision:
            outputs = [np.full_like(output, np.nan) for output in outputs]
        return outputs


def error(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return -torch.nn.functional.cross_entropy(output, target, reduction="none")


def test_outputs_the_metric_refuses_fail_the_candidate(
    quick: Exports, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(workshop, "load", Wrong)
    wanted = goal(task(metric=Metric("loss", error, "continuous")), max_drop=0.5)
    record = quietly(trained(), wanted, MadeUp(by_precision(2, 1)), tmp_path / "run").report
    failed_and_went_on(record, "onnxruntime int8", "metric 'loss' returned NaN")


def test_nan_that_the_metric_does_not_see_is_no_reference(
    quick: Exports, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The class of the greatest score among NaN is a class."""

    class Float(Wrong):
        precision = "float32"

    monkeypatch.setattr(workshop, "load", Float)
    with pytest.raises(Infeasible) as caught:
        run(tmp_path)
    assert f"{FLOAT}: outputs are off the float model's by NaN or infinity" in str(caught.value)


class Masked(Net):
    """One further class, that is never possible: its logit is minus infinity."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().forward(x)
        impossible = torch.full_like(logits[:, :1], -torch.inf)
        return torch.cat([logits, impossible], 1)


def test_infinity_in_the_models_own_outputs_is_no_difference(
    quick: Exports, tmp_path: Path
) -> None:
    model = Masked(channels=2)
    model.load_state_dict(with_outliers_at_the_input().state_dict())
    bench = MadeUp(by_precision(2, 1))
    record = quietly(model.eval(), goal(task(2)), bench, tmp_path / "run").report
    assert record["reference"] == FLOAT
    assert "1 in float" in record["pick"]["label"]


def test_a_float32_artifact_that_computes_something_else_is_no_reference(
    quick: Exports, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Off(Here):
        def run(self, inputs: Any) -> list[Any]:
            return [1.01 * output for output in super().run(inputs)]

    monkeypatch.setattr(workshop, "load", Off)
    with pytest.raises(Infeasible, match=r"off the float model's by 0\.01 of the largest"):
        run(tmp_path)


def test_a_metric_that_refuses_the_test_data_is_the_users_to_mend(
    quick: Exports, tmp_path: Path
) -> None:
    def picky(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (output.argmax(1) == target).float().where(target >= 0, torch.nan)

    images, labels = task().test[0]  # type: ignore[index]
    wrong = task(test=[(images, labels - 1)], metric=Metric("picky", picky, "continuous"))
    with pytest.raises(InvalidInput, match="metric 'picky' returned NaN"):
        quietly(trained(), goal(wrong), MadeUp(by_precision(2, 1)), tmp_path / "run")
    assert "race:finalists" in " ".join(keys_of(tmp_path / "run"))


def test_an_onnx_file_with_other_inputs_is_refused(
    real_int8: pytest.MonkeyPatch, quick: Exports, tmp_path: Path
) -> None:
    def other(graph: Any, runtime: str, folder: Path, *, precision: str) -> Artifact:
        artifact = quick(graph, runtime, folder, precision=precision)
        if precision == "int8":
            ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in ("a", "b")]
            node = helper.make_node("Relu", ["a"], ["b"])
            made = helper.make_graph([node], "other", ports[:1], ports[1:])
            model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)])
            model.ir_version = 10
            save(model, folder / artifact.files[0])
        return artifact

    real_int8.setattr(workshop, "export", other)
    failed_and_went_on(run(tmp_path), "onnxruntime int8", "takes the inputs ['a']")

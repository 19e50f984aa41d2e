"""The whole job on both runtimes, with real exports, real workers and made-up times."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from burnish.auto import STEPS, Result, optimize
from burnish.bench import Environment
from burnish.bundle import Artifact, Bundle, Worker, verify
from burnish.core import model_hash
from burnish.errors import InvalidInput
from burnish.goal import Budget, Goal, Target
from burnish.recipe import load_history, replay
from burnish.report import table
from tests.auto.made_up import MadeUp, data, goal, task, trained

TOP = {
    "schema", "title", "created", "burnish", "goal", "environment", "fingerprint", "reference",
    "candidates", "pick", "stopped", "failures", "coverage", "sensitivity", "recovery",
    "phases", "notes", "preflight", "profile",
}  # fmt: skip
CANDIDATE = {
    "label", "runtime", "precision", "threads", "status", "reason", "accepted", "frontier",
    "quality", "agreement", "verdict", "latency", "ratio", "size_mb", "memory_mb", "load_s",
    "num_int8", "num_operators", "history", "folder",
}  # fmt: skip
VERDICT = {
    "state", "difference", "low", "high", "max_drop", "relative", "confidence", "n", "needed",
    "method", "reason",
}  # fmt: skip


def seconds(key: str, threads: int) -> float:
    """OpenVINO's int8 on both cores is the fastest."""
    times = {
        "onnxruntime-float32": 4e-3,
        "openvino-float32": 5e-3,
        "openvino-bfloat16": 4.5e-3,
        "onnxruntime-int8": 3e-3,
        "openvino-int8": 2e-3,
    }
    return times[key] / (1 + 0.5 * (threads > 1))


@dataclass(frozen=True)
class Finished:
    result: Result
    goal: Goal
    said: str
    bench: MadeUp
    model_before: str


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    net = trained()
    before = model_hash(net)
    wanted = Goal(task(), Target(runtimes=("onnxruntime", "openvino")), Budget(max_drop=0.02))
    bench, console = MadeUp(seconds), Console(file=io.StringIO(), width=200)
    folder = tmp_path_factory.mktemp("end") / "to" / "end"
    result = optimize(net, wanted, bench=bench, run_folder=folder, console=console)
    assert isinstance(console.file, io.StringIO)
    return Finished(result, wanted, console.file.getvalue(), bench, before)


@pytest.fixture(scope="module")
def record(finished: Finished) -> dict[str, Any]:
    return finished.result.report


def candidates(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {item["label"]: item for item in record["candidates"]}


def test_the_fastest_that_holds_is_picked_and_verified(record: dict[str, Any]) -> None:
    cores = Environment.capture().machine.cores
    threads = f"{cores} thread{'s' * (cores > 1)}"
    assert record["pick"]["label"] == f"openvino int8, {threads}"
    assert record["pick"]["state"] == "verified"
    assert record["reference"] == f"onnxruntime float32, {threads}"
    assert record["pick"]["test"]["verdict"]["state"] == "holds"
    why = " ".join(record["pick"]["why"])
    assert "2.00 times as fast" in why
    assert record["reference"] in why


def test_every_variant_was_tried_with_one_thread_and_with_all(record: dict[str, Any]) -> None:
    machine = Environment.capture().machine
    variants = ["onnxruntime float32", "openvino float32", "onnxruntime int8", "openvino int8"]
    variants += ["openvino bfloat16"] * machine.supports_bfloat16
    threads = [f"{n} thread{'s' * (n > 1)}" for n in {1, machine.cores}]
    assert set(candidates(record)) == {f"{v}, {t}" for v in variants for t in threads}
    assert record["failures"] == []
    told = "bfloat16 was not tried" in " ".join(record["notes"])
    assert told is not machine.supports_bfloat16


def test_the_record_has_every_key_of_its_schema(record: dict[str, Any]) -> None:
    assert set(record) == TOP
    assert record["schema"] == 1
    for item in record["candidates"]:
        assert set(item) == CANDIDATE
        assert set(item["quality"]) == {"split", "metric", "value", "low", "high", "n"}
        assert set(item["verdict"]) == VERDICT
        assert set(item["latency"]) == {"p50_ms", "p90_ms", "p99_ms", "low_ms", "high_ms"}
        assert set(item["ratio"]) == {"value", "low", "high", "reference", "unreliable"}
        assert {"step", "settings"} == set().union(*item["history"]) or not item["history"]
    assert set(record["pick"]) == {"label", "state", "why", "test"}
    assert set(record["pick"]["test"]) == {"quality", "baseline", "verdict", "agreement"}
    assert record["pick"]["test"]["quality"]["split"] == "test"
    for rows in record["coverage"].values():
        assert all(set(row) == {"operator", "kind", "state", "reason"} for row in rows)


def test_the_record_is_json_and_what_the_file_holds(finished: Finished) -> None:
    text = (finished.result.run_folder / "report.json").read_text()
    assert json.loads(text) == json.loads(json.dumps(finished.result.report))


def test_figures_of_candidates(record: dict[str, Any]) -> None:
    found = candidates(record)
    assert all(item["quality"]["n"] == 400 for item in found.values())
    assert all(item["quality"]["low"] <= item["quality"]["value"] for item in found.values())
    assert all(item["agreement"] > 0.99 for item in found.values())
    for label, item in found.items():
        key = "-".join(label.split(",")[0].split())
        made_up = 1e3 * seconds(key, item["threads"])
        assert item["latency"]["p50_ms"] == pytest.approx(made_up, rel=0.01)
        assert item["num_int8"] == (4 if item["precision"] == "int8" else 0)
        assert item["accepted"]
    assert found[record["reference"]]["ratio"]["value"] == 1.0


def test_the_losers_say_who_beats_them(record: dict[str, Any]) -> None:
    pick = record["pick"]["label"]
    for label, item in candidates(record).items():
        assert item["frontier"] is (label == pick)
        assert (item["reason"] is None) is (label == pick)


def test_coverage_lists_every_float_operator(record: dict[str, Any]) -> None:
    int8 = [label for label in candidates(record) if "int8" in label]
    assert set(record["coverage"]) == set(int8)
    for rows in record["coverage"].values():
        states = {row["operator"]: row["state"] for row in rows}
        assert {"first:conv2d", "head:linear"} <= {k for k, s in states.items() if s == "int8"}
        assert all(row["reason"] for row in rows if row["state"] == "float")


def test_the_model_is_left_as_it_was(finished: Finished) -> None:
    assert model_hash(trained()) == finished.model_before


def test_the_bundle_verifies(finished: Finished) -> None:
    found = verify(finished.result.bundle)
    assert found.ok
    bundle = Bundle.open(finished.result.bundle)
    assert bundle.artifact.runtime == "openvino"
    assert bundle.artifact.precision == "int8"
    assert bundle.manifest["metrics"]["state"] == "verified"


def test_what_ships_is_what_was_measured(finished: Finished) -> None:
    measured = finished.result.run_folder / "candidates" / "openvino-int8" / "artifact"
    shipped = Bundle.open(finished.result.bundle).artifact
    for name in shipped.files:
        assert (shipped.folder / name).read_bytes() == (measured / name).read_bytes()


def test_the_bundle_answers_as_was_reported(finished: Finished) -> None:
    artifact = Bundle.open(finished.result.bundle).artifact
    images, labels = data("test", 400)
    with Worker(artifact) as worker:
        (logits,) = worker.run({artifact.inputs[0].name: images.numpy()})
    top1 = float((logits.argmax(1) == labels.numpy()).mean())
    assert top1 == finished.result.report["pick"]["test"]["quality"]["value"]


def test_the_history_of_the_pick_rebuilds_it(finished: Finished) -> None:
    folder = finished.result.run_folder / "candidates" / "openvino-int8"
    again = replay(trained(), load_history(folder), STEPS)
    images, _ = data("test", 400)
    with torch.inference_mode():
        simulated = again(images[:20]).numpy()
    artifact = Artifact.open(folder / "artifact")
    with Worker(artifact) as worker:
        (logits,) = worker.run({artifact.inputs[0].name: images[:20].numpy()})
    assert np.abs(simulated - logits).max() < 0.05 * np.abs(logits).max()


def test_the_page_is_written(finished: Finished) -> None:
    page = finished.result.page.read_text()
    assert "openvino int8" in page
    assert "</html>" in page


def test_printing_the_result(finished: Finished) -> None:
    text = str(finished.result)
    assert finished.result.pick == finished.result.report["pick"]["label"]
    assert finished.result.pick in text
    for runtime in ("onnxruntime float32", "onnxruntime int8", "openvino float32"):
        assert runtime in text
    assert "2.00 times as fast" in text.replace("\n", " ")
    assert text == str(table(finished.result.report))


def test_what_was_said_meanwhile_is_plain_lines(finished: Finished) -> None:
    said = finished.said
    assert "\x1b" not in said
    assert "fastest float32: onnxruntime float32" in said
    assert "openvino int8: top1 1, agreement 1.000 (holds), 4 of" in said
    assert "finalists: openvino int8" in said


def test_the_journal_names_each_piece_of_work_once(finished: Finished) -> None:
    lines = (finished.result.run_folder / "journal.jsonl").read_text().splitlines()
    keys = [json.loads(line)["key"] for line in lines]
    assert len(keys) == len(set(keys))
    assert sum(key.startswith("test:") for key in keys) == 1
    assert keys[0] == "baseline:validation"
    assert {"export:openvino-int8", "quality:openvino-int8"} <= set(keys)


def test_running_it_again_does_nothing_and_gives_the_same(finished: Finished) -> None:
    class Untouchable:
        def race(self, *_: object) -> None:
            raise AssertionError("raced again")

        op_times = race

        def now(self) -> float:
            return 0.0

    folder, console = finished.result.run_folder, Console(file=io.StringIO())
    bench: Any = Untouchable()
    again = optimize(trained(), finished.goal, bench=bench, run_folder=folder, console=console)
    changing = {"created", "phases", "environment"}  # with the commit of the source tree
    for name in TOP - changing:
        assert again.report[name] == finished.result.report[name], name
    assert isinstance(console.file, io.StringIO)
    assert f"carrying on in {folder}".replace("\n", "") in console.file.getvalue().replace("\n", "")


def test_saving_copies_bundle_and_page(finished: Finished, tmp_path: Path) -> None:
    out = finished.result.save(tmp_path / "out")
    assert {path.name for path in out.iterdir()} == {"bundle", "report.html"}
    assert verify(out / "bundle").ok
    (out / "bundle" / "manifest.json").read_text()
    assert finished.result.save(out) == out


def test_saving_over_something_else_is_refused(finished: Finished, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "thesis.tex").write_text("years of work")
    with pytest.raises(InvalidInput, match="no bundle"):
        finished.result.save(tmp_path)
    assert [path.name for path in (tmp_path / "bundle").iterdir()] == ["thesis.tex"]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("quick")
def test_without_a_folder_the_run_is_named_after_the_model(elsewhere: Path) -> None:
    bench, console = MadeUp(seconds), Console(file=io.StringIO())
    result = optimize(trained(), goal(), bench=bench, console=console)
    assert result.run_folder.resolve() == elsewhere / "burnish-runs" / "Net"
    named = optimize(trained(), goal(), bench=bench, name="mine", console=console)
    assert named.run_folder.resolve() == elsewhere / "burnish-runs" / "mine"


@pytest.mark.usefixtures("quick")
def test_a_terminal_shows_bars_within_bars(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    result = optimize(
        trained(), goal(), bench=MadeUp(seconds), run_folder=tmp_path / "run", console=console
    )
    assert result.report["pick"]["state"] == "verified"
    assert isinstance(console.file, io.StringIO)
    assert "exporting onnxruntime int8" in console.file.getvalue()


@pytest.mark.usefixtures("quick")
def test_a_task_with_target_and_budget_is_a_goal(tmp_path: Path) -> None:
    wanted, console = goal(max_drop=0.03), Console(file=io.StringIO())
    as_goal = optimize(
        trained(), wanted, bench=MadeUp(seconds), run_folder=tmp_path / "a", console=console
    )
    as_task = optimize(
        trained(),
        wanted.task,
        target=wanted.target,
        budget=wanted.budget,
        bench=MadeUp(seconds),
        run_folder=tmp_path / "b",
        console=console,
    )
    assert as_goal.report["fingerprint"] == as_task.report["fingerprint"]


@pytest.mark.usefixtures("quick")
def test_a_model_in_train_mode_is_optimized_as_it_would_be_used(tmp_path: Path) -> None:
    net = trained()
    net.train()
    try:
        result = optimize(
            net,
            goal(),
            bench=MadeUp(seconds),
            run_folder=tmp_path / "run",
            console=Console(file=io.StringIO()),
        )
        assert net.training
    finally:
        net.eval()
    assert result.report["pick"]["state"] == "verified"


@pytest.mark.slow
def test_on_the_real_clock(tmp_path: Path) -> None:
    """Whatever is faster here: the pick is verified, and its ratio is what the last race found."""
    result = optimize(
        trained(),
        goal(minutes=2.0),
        run_folder=tmp_path / "run",
        console=Console(file=io.StringIO()),
    )
    record = result.report
    assert record["failures"] == []
    assert record["pick"]["state"] == "verified"
    picked = candidates(record)[record["pick"]["label"]]
    assert picked["ratio"]["low"] <= 1.0 <= picked["ratio"]["high"] or picked["ratio"]["high"] < 1
    assert picked["memory_mb"] > 10
    assert picked["load_s"] > 0
    assert {phase["name"] for phase in record["phases"]} == {
        "float baselines", "int8", "free reverts", "sensitivity", "recovery", "finalists",
    }  # fmt: skip

"""Stop it, kill it, run out of time: what was measured is kept and the next run carries on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from burnish.auto import Result
from burnish.bundle import verify
from burnish.errors import BurnishError, Damaged, InvalidInput
from tests.auto.killed import run
from tests.auto.made_up import (
    Exports,
    Here,
    MadeUp,
    by_precision,
    candidate,
    goal,
    keys_of,
    quietly,
    task,
    trained,
    with_outliers_at_the_input,
)

ROOT = Path(__file__).resolve().parents[2]
FLOAT, INT8 = "onnxruntime float32, 1 thread", "onnxruntime int8, 1 thread"
# What may differ between two runs of one goal: a source tree may be committed to meanwhile.
CHANGING = {"created", "phases", "environment"}

# --- out of time


@pytest.mark.usefixtures("quick")
def test_out_of_time_the_best_so_far_is_returned_with_the_reason(tmp_path: Path) -> None:
    """Every race takes a minute. The same call carries the run on, and repeats nothing."""
    raced: list[tuple[str, ...]] = []
    stops = (
        (FLOAT, "the allowance of 0.5 minutes was spent before: int8"),
        (INT8, "the allowance of 0.5 minutes was spent before: free reverts"),
        (INT8, "every phase of the search was finished"),
    )
    for pick, reason in stops:
        bench = MadeUp(by_precision(2, 1), minutes=1)
        record = quietly(trained(), goal(minutes=0.5), bench, tmp_path / "run").report
        assert record["pick"]["label"] == pick
        assert record["stopped"] == reason
        raced += bench.raced
    assert len(raced) == 3
    keys = keys_of(tmp_path / "run")
    assert len(keys) == len(set(keys))


@pytest.mark.usefixtures("quick")
def test_a_later_pick_says_that_the_test_data_was_seen_before(tmp_path: Path) -> None:
    for minutes in (0.5, 9.0):
        bench = MadeUp(by_precision(2, 1), minutes=1)
        record = quietly(trained(), goal(minutes=minutes), bench, tmp_path / "run").report
    assert record["pick"]["label"] == INT8
    assert (
        "an earlier run of this folder looked at the test data for onnxruntime-float32"
        in record["pick"]["why"]
    )


@pytest.mark.usefixtures("quick")
def test_a_tie_is_seen_without_a_final_race(tmp_path: Path) -> None:
    bench = MadeUp(by_precision(1.0, 0.99), noise=0.2, minutes=1)
    record = quietly(trained(), goal(minutes=1.5), bench, tmp_path / "run").report
    assert "free reverts" in record["stopped"]
    ratio = candidate(record, INT8)["ratio"]
    assert ratio["value"] < 1 < ratio["high"]
    assert record["pick"]["label"] == FLOAT


@pytest.mark.usefixtures("quick")
def test_the_allowance_covers_what_comes_before_the_search(tmp_path: Path) -> None:
    """Checking the data takes longer than there is."""
    bench = MadeUp(by_precision(2, 1))

    class Slow:
        def __iter__(self) -> Any:
            bench.clock = 60
            return iter(found)

    found = list(task().validation or ())
    record = quietly(
        trained(), goal(task(validation=Slow()), minutes=0.5), bench, tmp_path / "run"
    ).report
    assert record["pick"]["label"] == FLOAT
    assert "before: int8" in record["stopped"]


@pytest.mark.usefixtures("quick")
def test_within_the_ladder_too(tmp_path: Path) -> None:
    """The second race is over at two minutes; the ladder may not begin after that."""
    bench = MadeUp(by_precision(2, 1), minutes=1)
    wanted = goal(task(2), minutes=2.0)
    record = quietly(with_outliers_at_the_input(), wanted, bench, tmp_path / "run").report
    assert record["pick"]["label"] == FLOAT
    assert "the allowance of 2 minutes was spent before: free reverts" in record["stopped"]


# --- killed


@pytest.fixture(scope="module")
def whole(exported: Exports, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, MadeUp]:
    """The run that nothing happened to."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("burnish.auto._workshop.export", exported)
        patched.setattr("burnish.auto._workshop.load", Here)
        patched.setattr("burnish.auto._optimize.load", Here)
        patched.setattr("burnish.auto._search.REFINEMENTS", ("refined",))
        result, bench = run(tmp_path_factory.mktemp("whole") / "run")
    return result, bench


def kill(exported: Exports, runs: Path, moments: list[str]) -> None:
    """One run for each moment, killed at it."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "tests.auto.killed", str(runs), str(exported.folder), *moments]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=280
    )
    assert done.stdout.split("\n")[:-1] == [f"{moment} {{9}}" for moment in moments], done.stderr


def carries_on(folder: Path, result: Result, whole_bench: MadeUp) -> None:
    """The rest of the run is done, nothing else, and the end is the same."""
    journal = folder / "journal.jsonl"
    before = journal.read_bytes() if journal.exists() else b""
    finished = before[: before.rfind(b"\n") + 1]
    done = [json.loads(line)["key"] for line in finished.splitlines()]
    again, bench = run(folder)
    assert journal.read_bytes().startswith(finished)
    keys = keys_of(folder)
    assert len(keys) == len(set(keys))
    assert keys == keys_of(result.run_folder)
    assert len(bench.raced) == len(whole_bench.raced) - sum(k.startswith("race:") for k in done)
    assert bench.raced == whole_bench.raced[len(whole_bench.raced) - len(bench.raced) :]
    for name in set(result.report) - CHANGING:
        assert again.report[name] == result.report[name], name
    assert verify(again.bundle).ok
    assert not list(folder.glob("candidates/*/.export-*"))


@pytest.mark.usefixtures("quick")
def test_killed_at_several_moments(
    exported: Exports, whole: tuple[Result, MadeUp], tmp_path: Path
) -> None:
    num = len(keys_of(whole[0].run_folder))
    assert num > 15
    moments = [f"7.torn+{num - 1}.torn", "3.torn+export:onnxruntime-int8+9+bundle"]
    kill(exported, tmp_path, moments)
    for moment in moments:
        carries_on(tmp_path / moment.replace(":", "-"), *whole)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_killed_at_every_moment(
    exported: Exports, whole: tuple[Result, MadeUp], tmp_path: Path
) -> None:
    num = len(keys_of(whole[0].run_folder))
    moments = [f"{n}{how}" for n in range(1, num + 1) for how in ("", ".torn")]
    kill(exported, tmp_path, moments)
    for moment in moments:
        carries_on(tmp_path / moment, *whole)


def test_the_journal_of_the_run_that_is_killed_covers_every_kind_of_work(
    whole: tuple[Result, MadeUp],
) -> None:
    kinds = {key.split(":")[0] for key in keys_of(whole[0].run_folder)}
    asked = {"preflight", "profile"}
    done = {"baseline", "export", "quality", "race", "operators", "sensitivity", "test"}
    assert kinds == asked | done


# --- a folder that changed


@pytest.fixture
def begun(tmp_path: Path, quick: Exports) -> Path:
    """A run that stopped after the baselines."""
    bench = MadeUp(by_precision(2, 1), minutes=1)
    quietly(trained(), goal(minutes=0.5), bench, tmp_path / "run")
    return tmp_path / "run"


def carried_on(folder: Path, **settings: Any) -> Result:
    return quietly(trained(), goal(**settings), MadeUp(by_precision(2, 1)), folder)


def test_another_goal_is_refused_and_nothing_overwritten(begun: Path) -> None:
    before = (begun / "journal.jsonl").read_bytes(), (begun / "run.json").read_bytes()
    with pytest.raises(InvalidInput, match="the run of another goal:"):
        carried_on(begun, max_drop=0.5)
    with pytest.raises(InvalidInput, match="the run of another goal:"):
        carried_on(begun, seed=1)
    wanted, bench = goal(task(n=300)), MadeUp(by_precision(2, 1))
    with pytest.raises(InvalidInput, match="name another run folder"):
        quietly(trained(), wanted, bench, begun)
    assert ((begun / "journal.jsonl").read_bytes(), (begun / "run.json").read_bytes()) == before


def test_another_model_is_refused(begun: Path) -> None:
    with pytest.raises(InvalidInput, match="the run of another model:"):
        quietly(trained(biased=False), goal(), MadeUp(by_precision(2, 1)), begun)


def test_a_damaged_line_is_refused_by_its_number(begun: Path) -> None:
    journal = begun / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"float32", b"float64", 1)
    journal.write_bytes(b"".join(lines))
    with pytest.raises(Damaged, match=r"line 2 of .*journal\.jsonl"):
        carried_on(begun)
    assert journal.read_bytes() == b"".join(lines)


@pytest.mark.parametrize("how", ["altered", "truncated", "missing"])
def test_an_artifact_that_is_not_what_was_measured_is_refused(begun: Path, how: str) -> None:
    model = begun / "candidates" / "onnxruntime-float32" / "artifact" / "model.onnx"
    data = bytearray(model.read_bytes())
    if how == "missing":
        model.unlink()
    else:
        data[len(data) // 2] ^= 1
        model.write_bytes(data if how == "altered" else data[:-1])
    with pytest.raises(Damaged, match="onnxruntime-float32"):
        carried_on(begun)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InvalidInput, match="no run folder"):
        carried_on(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


# --- the disk is full


@pytest.mark.parametrize(
    "where",
    ["_workshop.export", "_workshop.save_history", "_optimize.Bundle.write", "_optimize.report"],
)
def test_a_full_disk_is_an_error_and_the_run_carries_on_later(
    quick: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(f"burnish.auto.{where}", full)
        with pytest.raises(BurnishError, match=r"No space left on device.*make room"):
            carried_on(tmp_path / "run")
    keys = keys_of(tmp_path / "run")
    assert keys[0] == "baseline:validation"
    result = carried_on(tmp_path / "run")
    assert result.report["pick"]["label"] == INT8
    assert keys_of(tmp_path / "run")[: len(keys)] == keys


# --- equal runs


def test_equal_runs_make_equal_choices(
    whole: tuple[Result, MadeUp], quick: Exports, tmp_path: Path
) -> None:
    """Plans, scales and tensors bit for bit, in a process of the same seed."""
    result, _ = run(tmp_path / "run")
    first, second = whole[0].run_folder / "candidates", result.run_folder / "candidates"
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    assert sum("-but-" in name for name in names) >= 1
    for name in names:
        for file in ("history.json", "weights.safetensors"):
            assert (first / name / file).read_bytes() == (second / name / file).read_bytes()
    plan = json.loads((first / "onnxruntime-int8" / "history.json").read_text())
    assert plan[0]["choices"]["plan"]["quantizers"]

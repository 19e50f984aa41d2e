"""Races: with made-up times that are known, and with real processes that misbehave."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from burnish.bench import Race, measure, race
from burnish.bench._field import Field
from burnish.bundle import Artifact
from burnish.errors import Damaged, InvalidInput, MissingExtra, RuntimeFailed, Unreliable
from tests.bench.made_up import INPUTS, Array, NoisyMachine, artifact
from tests.bundle import models

SECONDS = {"slow": 0.020, "fast": 0.004, "tiny": 0.00001}


@pytest.fixture
def field(tmp_path: Path) -> dict[str, Artifact]:
    return {name: artifact(tmp_path, name) for name in SECONDS}


def test_ratios_are_found_in_noise(field: dict[str, Artifact]) -> None:
    result = race(field, INPUTS, seconds=10, clock=NoisyMachine(SECONDS, seed=3))
    for a, b in (("slow", "fast"), ("fast", "slow"), ("tiny", "slow")):
        truth = SECONDS[a] / SECONDS[b]
        ratio = result.ratio(a, b)
        assert ratio.low <= truth <= ratio.high
        assert ratio.value == pytest.approx(truth, rel=0.05)
        assert not ratio.unreliable
    assert result.ratio("slow", "slow").value == 1
    inverse = result.ratio("fast", "slow")
    assert inverse.value == pytest.approx(1 / result.ratio("slow", "fast").value)


def test_timings_are_what_was_timed(field: dict[str, Artifact]) -> None:
    def exact(artifact: Artifact, inputs: Mapping[str, Array], runs: int) -> Array:
        return np.full(runs, SECONDS[artifact.files[0]])

    result = race(field, INPUTS, seconds=3, clock=exact, batch=4)
    for name, seconds in SECONDS.items():
        timing = result.timing(name)
        assert (timing.p50, timing.p99, timing.mean) == pytest.approx((seconds,) * 3)
        assert timing.throughput == pytest.approx(4 / seconds)
        assert timing.rounds == len(result.medians[name]) >= 8
        assert timing.size_bytes == 10
        assert timing.failed is None
        assert timing.target == "onnxruntime on cpu, threads=all, execution=float32, batch=4"
    assert [timing.label for timing in result.timings] == list(SECONDS)


def test_the_first_run_of_a_turn_is_not_counted(field: dict[str, Artifact]) -> None:
    def cold_start(artifact: Artifact, inputs: Mapping[str, Array], runs: int) -> Array:
        return np.array([1.0] + [0.01] * (runs - 1))

    result = race({"slow": field["slow"]}, INPUTS, seconds=3, clock=cold_start)
    assert result.timing("slow").p99 == pytest.approx(0.01)


def test_turns_are_interleaved_in_an_order_that_changes(field: dict[str, Artifact]) -> None:
    machine = NoisyMachine(SECONDS)
    result = race(field, INPUTS, seconds=5, clock=machine)
    rounds = result.timings[0].rounds
    turns = [name for name, _ in machine.calls][-3 * rounds :]
    orders = [tuple(turns[start : start + 3]) for start in range(0, len(turns), 3)]
    assert all(sorted(order) == sorted(SECONDS) for order in orders)
    assert len(set(orders)) > 3


def test_a_turn_lasts_tens_of_milliseconds(field: dict[str, Artifact]) -> None:
    machine = NoisyMachine(SECONDS)
    race(field, INPUTS, seconds=5, clock=machine)
    for name in ("slow", "fast", "tiny"):
        runs = machine.calls[-1][1] if machine.calls[-1][0] == name else None
        runs = runs or next(count for call, count in reversed(machine.calls) if call == name)
        assert 0.01 < runs * SECONDS[name] < 0.08


def test_the_same_seed_and_times_give_the_same_race(field: dict[str, Artifact]) -> None:
    def run(seed: int) -> Race:
        return race(field, INPUTS, seconds=3, seed=seed, clock=NoisyMachine(SECONDS, seed=5))

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_the_allowance_is_kept_and_progress_is_told(field: dict[str, Artifact]) -> None:
    for seconds in (2.0, 8.0):
        machine, told = NoisyMachine(SECONDS), list[float]()
        spent = [0.0]

        def clock(
            artifact: Artifact,
            inputs: Mapping[str, Array],
            runs: int,
            m: Any = machine,
            s: Any = spent,
        ) -> Array:
            times: Array = m(artifact, inputs, runs)
            s[0] += times.sum()
            return times

        race(field, INPUTS, seconds=seconds, clock=clock, progress=told.append)
        assert seconds <= spent[0] < seconds + 2
        assert told == sorted(told)
        assert told[-1] == 1.0


def test_slow_models_get_the_fewest_rounds_that_give_an_interval(tmp_path: Path) -> None:
    machine = NoisyMachine({"huge": 5.0})
    field = {"huge": artifact(tmp_path, "huge")}
    assert race(field, INPUTS, seconds=1, clock=machine).timings[0].rounds == 8
    assert race(field, INPUTS, seconds=1, clock=machine, confidence=0.999).timings[0].rounds == 11


def test_one_that_fails_drops_out_and_the_race_goes_on(field: dict[str, Artifact]) -> None:
    machine, turns = NoisyMachine(SECONDS), [0]

    def clock(artifact: Artifact, inputs: Mapping[str, Array], runs: int) -> Array:
        if artifact.files[0] == "fast":
            turns[0] += 1
            if turns[0] == 12:
                raise RuntimeFailed("it blew up", "crashed")
        return machine(artifact, inputs, runs)

    result = race(field, INPUTS, seconds=5, clock=clock)
    failed = result.timing("fast")
    assert failed.failed is not None
    assert "it blew up" in failed.failed
    assert math.isnan(failed.p50)
    assert math.isnan(failed.throughput)
    assert turns[0] == 12
    assert result.timing("slow").rounds > failed.rounds
    assert result.ratio("slow", "tiny").value > 1
    with pytest.raises(RuntimeFailed, match="it blew up"):
        result.ratio("slow", "fast")
    assert Race.from_json(json.loads(json.dumps(result.to_json()))).timing("fast").failed


def test_when_all_fail_the_race_ends(field: dict[str, Artifact]) -> None:
    def clock(artifact: Artifact, inputs: Mapping[str, Array], runs: int) -> Array:
        raise RuntimeFailed("no luck")

    result = race(field, INPUTS, clock=clock)
    assert [timing.failed for timing in result.timings] == ["no luck"] * 3


def test_json_there_and_back(field: dict[str, Artifact]) -> None:
    result = race(field, INPUTS, seconds=2, clock=NoisyMachine(SECONDS))
    assert Race.from_json(json.loads(json.dumps(result.to_json()))) == result
    for record in ({}, {**result.to_json(), "timings": [{}]}, {**result.to_json(), "medians": 3}):
        with pytest.raises(Damaged, match="no race's record"):
            Race.from_json(record)


def test_a_wide_interval_is_called_unreliable(field: dict[str, Artifact]) -> None:
    random = np.random.default_rng(0)

    def chaos(artifact: Artifact, inputs: Mapping[str, Array], runs: int) -> Array:
        return np.full(runs, SECONDS[artifact.files[0]] * np.exp(random.standard_normal()))

    assert race(field, INPUTS, seconds=2, clock=chaos).ratio("slow", "fast").unreliable


@pytest.mark.parametrize(
    "change", [{"seconds": 0}, {"confidence": 1.0}, {"confidence": 0.2}, {"batch": 0}]
)
def test_settings_that_make_no_sense_are_refused(
    field: dict[str, Artifact], change: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput, match=next(iter(change))):
        race(field, INPUTS, clock=NoisyMachine(SECONDS), **change)


def test_asking_for_what_was_not_raced(field: dict[str, Artifact]) -> None:
    with pytest.raises(InvalidInput, match="at least one"):
        race({}, INPUTS)
    result = race(field, INPUTS, seconds=2, clock=NoisyMachine(SECONDS))
    with pytest.raises(InvalidInput, match="'other'"):
        result.ratio("slow", "other")
    few = Race(result.timings, {name: values[:3] for name, values in result.medians.items()}, 0.95)
    with pytest.raises(Unreliable, match="at least 6"):
        few.ratio("slow", "fast")
    with pytest.raises(InvalidInput, match="the clock gave"):
        race(field, INPUTS, clock=lambda artifact, inputs, runs: np.zeros(runs))


def test_measurements_carry_their_reference(field: dict[str, Artifact]) -> None:
    machine = NoisyMachine(SECONDS, seed=1)
    found = measure(
        field["fast"], field["slow"], INPUTS, labels=("int8", "float32"), seconds=5, clock=machine
    )
    by_name = {item.metric: item for item in found}
    assert list(by_name) == ["latency", "throughput", "size", "memory", "load"]
    latency = by_name["latency"]
    assert latency.unit == "ms"
    assert latency.low <= latency.value <= latency.high
    assert latency.reference == "float32"
    assert latency.ratio is not None
    assert latency.ratio[1] <= 0.2 <= latency.ratio[2]
    assert latency.n >= 8
    assert by_name["size"].value == pytest.approx(1e-5)
    assert {item.environment for item in found} == {latency.environment}
    alone = measure(field["fast"], None, INPUTS, seconds=2, clock=machine)
    assert alone[0].reference is None
    assert alone[0].ratio is None


def test_real_processes(tmp_path: Path) -> None:
    good = models.onnx_artifact(tmp_path / "good")
    broken = models.onnx_artifact(tmp_path / "broken")
    (broken.folder / "model.onnx").write_bytes(b"not a model")
    unsafe = Artifact(
        broken.folder, "eager", "float32", ("model.onnx",), models.INPUTS, models.OUTPUTS
    )
    entered = {
        "one": good.with_options(threads=1),
        "broken": broken,
        "unsafe": unsafe,
        "openvino": models.openvino_artifact(tmp_path / "openvino"),
    }
    result = race(entered, models.samples(2), seconds=1.0, batch=2)
    assert [bool(timing.failed) for timing in result.timings] == [False, True, True, False]
    one = result.timing("one")
    assert 0 < one.p50 <= one.p90 <= one.p99
    assert one.memory_bytes > 10_000_000
    assert one.load_seconds > 0
    assert one.rounds >= 8
    assert result.ratio("one", "openvino").value > 0


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_a_process_killed_in_the_middle_is_one_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields: list[Field] = []
    start = Field.__init__

    def remember(self: Field, *arguments: Any) -> None:
        start(self, *arguments)
        fields.append(self)

    monkeypatch.setattr(Field, "__init__", remember)
    good = models.onnx_artifact(tmp_path)

    def kill(share: float) -> None:
        if share > 0.3 and "victim" not in fields[0].failed:
            victim: Any = fields[0].entrants["victim"]
            os.kill(victim._crew._workers[0].pid, signal.SIGKILL)

    result = race({"victim": good, "other": good}, models.samples(1), seconds=1.0, progress=kill)
    assert "SIGKILL" in str(result.timing("victim").failed)
    assert result.timing("other").failed is None
    assert threading.active_count() < 10


def test_mistakes_of_the_caller_are_not_failures_of_an_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = models.onnx_artifact(tmp_path / "good")
    with pytest.raises(InvalidInput, match="'x' takes"):
        race({"good": good}, {"x": np.zeros((1, 3), np.float32)}, seconds=1)
    missing = "raise ModuleNotFoundError('no', name='onnxruntime')"
    monkeypatch.setenv("PYTHONPATH", models.fake_onnxruntime(tmp_path, top=missing))
    with pytest.raises(MissingExtra, match="pip install onnxruntime"):
        race({"good": good}, models.samples(1), seconds=1)

"""Sweeps: with made-up times that are known, and with real processes that misbehave."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.bench import Point, Sweep, sweep
from burnish.bench._energy import Meter
from burnish.bundle import Artifact
from burnish.errors import Damaged, Infeasible, InvalidInput, RuntimeFailed, Unsupported
from burnish.hardware import Machine
from tests.bench.made_up import Array, artifact
from tests.bundle import models

Settings = tuple[int, int]  # batch, threads


def make_inputs(batch: int) -> dict[str, Array]:
    return {"x": np.zeros((batch, 2), np.float32)}


def exact(seconds: Mapping[Settings, float]) -> Any:
    """A clock without noise."""

    def clock(artifact: Artifact, inputs: Mapping[str, Array], runs: int) -> Array:
        return np.full(runs, seconds[len(inputs["x"]), artifact.options.threads or 0])

    return clock


def scaling(batch: int, threads: int) -> float:
    """A part that no thread speeds up, and a part that two threads speed up by 1.6."""
    return 0.001 + 0.002 * batch / 1.6 ** (threads - 1)


TIMES = {(batch, threads): scaling(batch, threads) for batch in (1, 2, 4, 8) for threads in (1, 2)}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what `detect` finds: two cores and no counters, unless told otherwise."""

    def become(**changes: Any) -> None:
        found = Machine("a cpu", 2, 8 << 30, frozenset(), "Linux x86_64", "3.11")
        monkeypatch.setattr("burnish.bench._environment.detect", lambda: replace(found, **changes))

    def no_meter() -> Meter:
        raise Unsupported("no counters")

    monkeypatch.setattr("burnish.bench._sweep.find_meter", no_meter)
    become()
    return become


@pytest.fixture
def known(machine: Any, tmp_path: Path) -> Sweep:
    """The made-up machine of `TIMES`, swept."""
    return sweep(
        artifact(tmp_path, "m"), make_inputs, batches=(1, 2, 4, 8), streams=(1,), clock=exact(TIMES)
    )


def settings(point: Any) -> Settings:
    assert isinstance(point, Point)
    return point.batch, point.threads


def test_every_combination_is_timed_as_it_is(known: Sweep) -> None:
    assert {settings(point) for point in known.points} == set(TIMES)
    for point in known.points:
        seconds = TIMES[settings(point)]
        timing = point.timing
        found = (timing.p50, timing.p99, point.low, point.high)
        assert found == pytest.approx((seconds,) * 4)
        assert timing.throughput == pytest.approx(point.batch / seconds)
        assert timing.target.endswith(f"batch={point.batch}")
        assert point.runs > 40
        assert point.doubt is None
    assert known.title.endswith("onnxruntime float32")
    assert known.notes == ()


@given(st.lists(st.integers(1, 12), min_size=8, max_size=8), st.integers(1, 13), st.booleans())
def test_the_best_is_what_a_look_at_all_of_them_finds(
    milliseconds: list[int], limit: int, ceiling: bool
) -> None:
    """Among equals the one with fewer threads, then the smaller batch."""
    times = dict(zip(sorted(TIMES), (1e-3 * each for each in milliseconds), strict=True))
    found = made_up(times)
    simplest_first = sorted(times, key=lambda key: (key[1], key[0]))
    if ceiling:
        good = [key for key in simplest_first if times[key] <= 1e-3 * limit * (1 + 1e-9)]
        wanted = max(good, key=lambda key: round(key[0] / times[key], 6), default=None)
        asked: dict[str, float] = {"max_p99": 1e-3 * limit * (1 + 1e-9)}
    else:
        floor = 250.0 * limit
        good = [key for key in simplest_first if key[0] / times[key] >= floor * (1 - 1e-9)]
        wanted = min(good, key=lambda key: times[key], default=None)
        asked = {"min_throughput": floor * (1 - 1e-9)}
    if wanted is not None:
        assert settings(found.best(**asked)) == wanted
        return
    with pytest.raises(Infeasible) as error:
        found.best(**asked)
    nearest = settings(error.value.result)
    if ceiling:
        assert times[nearest] == min(times.values())
    else:
        assert nearest[0] / times[nearest] == pytest.approx(
            max(b / t for (b, _), t in times.items())
        )


def made_up(times: Mapping[Settings, float]) -> Sweep:
    """A sweep of these times; no clock needed, for a property that asks for many."""
    from burnish.bench import Environment, Race, Timing
    from burnish.bench._sweep_result import label, point

    timings, medians = [], {}
    for (batch, threads), each in times.items():
        name = label(batch, threads, 1)
        rate = batch / each
        timings.append(Timing(name, each, each, each, each, rate, 0, 0, 0, 10, None, "cpu"))
        medians[name] = (each,) * 10
    race = Race(tuple(timings), medians, 0.95)
    points = tuple(point(race, b, (t, 1), 200, None, None) for b, t in times)
    machine = Machine("a cpu", 2, 8 << 30, frozenset(), "Linux x86_64", "3.11")
    return Sweep("made up", "2026-01-01", points, "none", (), Environment(machine, {}, None), race)


def test_a_lead_inside_the_noise_is_no_reason_for_more_cores(machine: Any, tmp_path: Path) -> None:
    random = np.random.default_rng(4)

    def noisy(artifact: Artifact, inputs: Mapping[str, Array], runs: int) -> Array:
        seconds = 0.010 if artifact.options.threads == 1 else 0.00998
        times: Array = seconds * np.exp(0.05 * random.standard_normal(runs))
        return times

    found = sweep(
        artifact(tmp_path, "m"), make_inputs, batches=(1,), streams=(1,), seconds=4, clock=noisy
    )
    one, two = found.points
    quicker = min(one.timing.p50, two.timing.p50)
    assert found.best(min_throughput=0.9 / quicker) is one
    record = found.to_json(min_throughput=50.0)
    assert record["best"]["point"] == 0
    assert ("no more than the noise" in record["best"]["why"]) == (quicker == two.timing.p50)


def test_a_limit_nobody_meets_says_how_near_one_gets(known: Sweep) -> None:
    most = max(batch / seconds for (batch, _), seconds in TIMES.items())
    with pytest.raises(Infeasible, match=r"batch=8, threads=2, streams=1, gets 50 % of it") as high:
        known.best(min_throughput=2 * most)
    assert settings(high.value.result) == (8, 2)
    with pytest.raises(
        Infeasible, match=r"at most 1\.125 ms; .*batch=1, threads=2.* takes 2 times"
    ):
        known.best(max_p99=scaling(1, 2) / 2)
    record = known.to_json(max_p99=scaling(1, 2) / 2)["best"]
    assert record["point"] is None
    assert settings(known.points[record["nearest"]]) == (1, 2)
    assert "takes 2 times" in record["why"]


@pytest.mark.parametrize(
    "asked",
    [{}, {"min_throughput": 1.0, "max_p99": 1.0}, {"max_p99": 0}, {"min_throughput": math.inf}],
)
def test_a_question_without_an_answer_is_refused(known: Sweep, asked: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match=r"use a number above 0|give one of"):
        known.best(**asked)


def test_cost_of_a_million(known: Sweep) -> None:
    point = known.points[0]
    assert point.cost_per_million(3.6) == pytest.approx(1e3 / point.timing.throughput)
    cost = known.to_json(price_per_hour=3.6)["cost"]
    assert cost["price_per_hour"] == 3.6
    assert cost["per_million"][0] == pytest.approx(1e3 / point.timing.throughput)
    with pytest.raises(InvalidInput, match="price_per_hour is -1"):
        point.cost_per_million(-1)


def test_energy_is_divided_by_the_samples(
    machine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A processor that takes 10 W, whatever it does."""
    passed = [0.0]

    class TenWatts:
        names = "package-0"

        def read(self) -> float:
            return passed[0]

        def joules(self, before: float, after: float) -> float:
            return 10 * (after - before)

    def clock(artifact: Artifact, inputs: Mapping[str, Array], runs: int) -> Array:
        passed[0] += runs * 0.004
        return np.full(runs, 0.004)

    monkeypatch.setattr("burnish.bench._sweep.find_meter", TenWatts)
    found = sweep(artifact(tmp_path, "m"), make_inputs, batches=(1, 4), streams=(1,), clock=clock)
    for point in found.points:
        assert point.joules == pytest.approx(0.04 / point.batch)
    energy = found.to_json()["energy"]
    assert energy["measured"]
    assert "package-0" in energy["how"]
    assert "idle power" in energy["how"]


def test_where_energy_is_not_measurable_the_reason_is_told(known: Sweep) -> None:
    assert known.to_json()["energy"] == {
        "measured": False,
        "how": "not measurable here: no counters",
    }
    assert all(point.joules is None for point in known.points)


def test_json_there_and_back(known: Sweep, tmp_path: Path) -> None:
    path = known.save(tmp_path / "out", max_p99=0.01, price_per_hour=2.0)
    record = json.loads(path.read_text(encoding="utf-8"))
    assert Sweep.from_json(record) == known
    assert record["schema"] == 1
    assert record["best"]["max_p99_ms"] == pytest.approx(10)
    assert record["points"][record["best"]["point"]]["p99_ms"] <= 10
    for broken in ({}, {**record, "schema": 2}, {**record, "race": {}}, {**record, "points": [{}]}):
        with pytest.raises(Damaged):
            Sweep.from_json(broken)


def test_what_is_wanted_is_checked(machine: Any, tmp_path: Path) -> None:
    mine = artifact(tmp_path, "m")
    for wrong in ({"batches": ()}, {"batches": (0, 1)}, {"threads": (1.5,)}, {"streams": (True,)}):
        with pytest.raises(InvalidInput, match=next(iter(wrong))):
            sweep(mine, make_inputs, clock=exact(TIMES), **wrong)
    with pytest.raises(InvalidInput, match="seconds"):
        sweep(mine, make_inputs, seconds=0, clock=exact(TIMES))


def test_one_core(machine: Any, tmp_path: Path) -> None:
    machine(cores=1)
    mine = artifact(tmp_path, "m")
    found = sweep(mine, make_inputs, batches=(1, 2), clock=exact(TIMES))
    assert [(point.threads, point.streams) for point in found.points] == [(1, 1)] * 2
    assert "may use 1 core: threads=1 with streams=2" in found.notes[0]
    with pytest.raises(InvalidInput, match="may use 1 core, and each of"):
        sweep(mine, make_inputs, threads=(2, 4), streams=(1,), clock=exact(TIMES))


def test_a_quota_that_is_no_whole_number(machine: Any, tmp_path: Path) -> None:
    machine(cores=1, quota=1.5)
    mine = artifact(tmp_path, "m")
    found = sweep(mine, make_inputs, batches=(1,), threads=(1, 2), clock=exact(TIMES))
    assert "1.5 CPUs" in " ".join(found.notes)
    assert [settings(point) for point in found.points] == [(1, 1)]
    assert found.points[0].doubt is None
    machine(cores=1, quota=0.5)
    half = sweep(mine, make_inputs, batches=(1,), threads=(1,), clock=exact(TIMES))
    assert "needs 1 CPUs where a quota allows 0.5" in str(half.points[0].doubt)
    assert not half.to_json()["points"][0]["reliable"]
    assert Sweep.from_json(half.to_json()) == half


def test_times_that_say_little_are_marked(machine: Any, tmp_path: Path) -> None:
    random = np.random.default_rng(0)

    def clock(artifact: Artifact, inputs: Mapping[str, Array], runs: int) -> Array:
        match len(inputs["x"]):
            case 1:
                return np.full(runs, 0.4e-6)
            case 2:
                return np.full(runs, 0.01 * np.exp(random.standard_normal()))
        return np.full(runs, 0.5)

    found = sweep(
        artifact(tmp_path, "m"), make_inputs, batches=(1, 2, 4), threads=(1,), streams=(1,),
        clock=clock,
    )  # fmt: skip
    quick, unsteady, slow = found.points
    assert "under a microsecond" in str(quick.doubt)
    assert "unsteady" in str(unsteady.doubt)
    assert slow.doubt is None
    assert "p99 rests on 8 runs" in str(slow.note)
    reliable = [item["reliable"] for item in found.to_json()["points"]]
    assert reliable == [False, False, True]


def test_inputs_that_do_not_fit_memory_are_not_made(machine: Any, tmp_path: Path) -> None:
    machine(memory_bytes=100_000)
    made = []

    def large(batch: int) -> dict[str, Array]:
        made.append(batch)
        if batch == 4:
            raise MemoryError("Unable to allocate 2.00 TiB")
        return {"x": np.zeros((batch, 1000), np.float32)}

    times = {(batch, threads): 0.001 for batch in (1, 2, 4, 16) for threads in (1, 2)}
    found = sweep(
        artifact(tmp_path, "m"), large, batches=(16, 4, 2, 1), threads=(1,), clock=exact(times)
    )
    by_batch = {p.batch: p.timing.failed for p in found.points if p.streams == 1}
    assert made == [1, 2, 4]
    assert by_batch[1] is None
    assert by_batch[2] is None
    assert "Unable to allocate" in str(by_batch[4])
    assert "take 0.000" in str(by_batch[16])
    assert "does not fit" in str(by_batch[16])
    assert found.best(max_p99=1).batch == 2
    record = found.to_json()["points"][-1]
    assert record["p50_ms"] is record["throughput"] is None
    assert not record["reliable"]


def test_where_none_ran_there_is_no_best(machine: Any, tmp_path: Path) -> None:
    def clock(artifact: Artifact, inputs: Mapping[str, Array], runs: int) -> Array:
        raise RuntimeFailed("no luck")

    found = sweep(artifact(tmp_path, "m"), make_inputs, batches=(1,), clock=clock)
    with pytest.raises(RuntimeFailed, match=r"no combination ran; .*no luck"):
        found.best(max_p99=1)
    assert "no luck" in found.to_json(max_p99=1)["best"]["why"]
    assert Sweep.from_json(json.loads(json.dumps(found.to_json()))).to_json() == found.to_json()


def test_real_processes_side_by_side(tmp_path: Path) -> None:
    """Whether there are enough cores or not: then it is said."""
    good = models.onnx_artifact(tmp_path)
    told: list[float] = []
    found = sweep(
        good, models.samples, batches=(1, 3), threads=(1,), seconds=1.0, progress=told.append
    )
    assert told[-1] == 1
    assert all(point.timing.failed is None for point in found.points)
    assert all(0 < point.timing.p50 <= point.timing.p99 for point in found.points)
    if found.environment.machine.cores >= 2:
        assert [point.streams for point in found.points] == [1, 1, 2, 2]
        assert "streams=2" in found.points[-1].timing.target
    else:
        assert "streams=2" in found.notes[-1]
    assert found.energy.startswith(("not measurable here: ", "counters of "))


def test_a_batch_that_kills_its_process_costs_only_what_is_larger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that does not fit memory: the smaller go on in a new process."""
    good = models.onnx_artifact(tmp_path)
    dies = "len(feed['x']) < 4 or os.kill(os.getpid(), 9)"
    monkeypatch.setenv("PYTHONPATH", models.fake_onnxruntime(tmp_path, run=dies))
    found = sweep(
        good, models.samples, batches=(1, 2, 4, 8), threads=(1,), streams=(1,), seconds=0.5
    )
    failed = [point.timing.failed for point in found.points]
    assert failed[:2] == [None, None]
    assert "SIGKILL (the system does so when memory runs out)" in str(failed[2])
    assert "not tried: batch 4 failed before it" in str(failed[3])
    assert found.points[0].timing.rounds >= 8


def test_an_artifact_that_does_not_load_is_told_once(tmp_path: Path) -> None:
    broken = models.onnx_artifact(tmp_path)
    (broken.folder / "model.onnx").write_bytes(b"not a model")
    found = sweep(broken, models.samples, batches=(1, 2), threads=(1,), streams=(1,), seconds=0.5)
    first, second = (str(point.timing.failed) for point in found.points)
    assert "model.onnx" in first
    assert "not tried: batch 1 failed" in second

"""A profile of a real model in the real runtimes, and what it says when they cannot say much."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from burnish.bench import Environment, Race, race
from burnish.bundle import OpTime
from burnish.errors import Damaged, InvalidInput, RuntimeFailed, Unsupported
from burnish.goal import Inputs
from burnish.hardware import Machine
from burnish.profile import _measure
from burnish.profile._device import Device
from burnish.profile._profile import Profile, fits
from burnish.profile._profiling import profile
from burnish.profile._roof import roof
from burnish.report import profile_page
from burnish.runtimes import Artifact
from tests.profile.probes import made_up
from tests.profile.traced import Net

RUNTIMES = ("eager", "onnxruntime", "openvino")


@pytest.fixture(scope="module", autouse=True)
def _no_probe_of_this_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BURNISH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    ).eval()


@pytest.fixture(scope="module")
def found(model: nn.Module) -> Profile:
    x = torch.rand(1, 3, 64, 64)
    return profile(model, x, batch=2, threads=1, seconds=0.5, peaks=made_up(threads=1))


def test_every_runtime_is_timed_whole_and_by_operator(found) -> None:
    assert [run.name for run in found.runs] == list(RUNTIMES)
    for run in found.runs:
        assert run.failed is None
        assert run.latency is not None
        assert 0 < run.latency.low_ms <= run.latency.p50_ms <= run.latency.high_ms
        assert run.memory_bytes is not None
        assert run.memory_bytes > 1e7
        seconds = [item.seconds[run.name] for item in found.operators]
        assert run.attributed_ms == pytest.approx(1e3 * math.fsum(filter(None, seconds)))
        assert run.counted_ms == pytest.approx(
            run.attributed_ms + sum(kernel.ms for kernel in run.rest)
        )


def test_a_batch_norm_that_a_runtime_folded_has_no_time_of_its_own(found) -> None:
    norm = found.operator("1:batch_norm")
    assert norm.seconds["eager"] is not None
    for runtime in ("onnxruntime", "openvino"):
        assert norm.seconds[runtime] is None
        assert found.operator("0:conv2d").seconds[runtime] is not None


def test_counts_are_of_the_batch_asked_for(found) -> None:
    macs = 2 * 64 * 64 * 16 * (27 + 9) + 2 * 16 * 4
    assert (found.batch, found.threads, found.macs) == (2, 1, macs)
    assert found.num_parameters == 16 * 27 + 16 + 32 + 16 * 9 + 16 + 68
    assert found.operator("0:conv2d").module == "0"
    conv = found.operator("0:conv2d")
    assert conv.intensity == conv.macs / conv.num_bytes


def test_operators_stand_under_the_roof_of_the_probed_machine(found) -> None:
    conv = found.operator("0:conv2d")
    assert found.peaks is not None
    here = conv.roofline["eager"]
    assert here == roof(conv.macs, conv.num_bytes, conv.seconds["eager"], found.peaks, "eager")
    assert here.bound in ("compute", "memory", "overhead")
    assert conv.roofline["onnxruntime"].share_of_peak is None  # the made-up probe has none of it


def test_json_and_back_is_the_same_value(found, tmp_path: Path) -> None:
    path = found.save(tmp_path / "new" / "folder")
    assert path.name == "profile.json"
    assert Profile.open(path.parent) == found
    record = json.loads(path.read_text())
    assert record["schema"] == 1
    assert set(record["memory"]["measured_bytes"]) == set(RUNTIMES)
    assert record["operators"][0]["name"] == "0:conv2d"
    assert record["runtimes"][0]["latency"]["p50_ms"] > 0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 2}', '{"schema": 1, "title": "x"}'])
def test_a_file_that_is_no_profile_is_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "profile.json").write_text(text)
    with pytest.raises(Damaged, match="profile"):
        Profile.open(tmp_path)


def test_the_page_can_be_made_of_it(found, tmp_path: Path) -> None:
    found.save(tmp_path)
    assert "0:conv2d" in profile_page(tmp_path).read_text(encoding="utf-8")


def test_the_table_holds_the_operators_and_the_runtimes(found) -> None:
    text = str(found)
    assert max(map(len, text.splitlines())) <= 120
    for word in ("0:conv2d", "ort ms", "ov ms", "MAC/B", "Raspberry Pi 4", "batch 2"):
        assert word in text, word


def test_a_long_table_tells_what_it_leaves_out(found) -> None:
    many = [
        replace(item, name=f"{number}{item.name}")
        for number in range(10)
        for item in found.operators
    ]
    text = str(replace(found, operators=tuple(many)))
    assert f"and {len(many) - 30} more:" in text
    assert "of the time in" in text


def test_the_chrome_trace_holds_every_time_once_and_in_order(found, tmp_path: Path) -> None:
    found.chrome_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = {e["args"]["name"]: e["pid"] for e in events if e["name"] == "process_name"}
    for run in found.runs:
        mine = [e for e in events if e["pid"] == names[f"{run.name} (float32)"] and e["ph"] == "X"]
        assert sum(e["dur"] for e in mine) == pytest.approx(1e3 * run.counted_ms)
        ends = [e["ts"] + e["dur"] for e in mine]
        assert all(b["ts"] == pytest.approx(a) for a, b in zip(ends, mine[1:], strict=False))
    counters = [e["args"]["bytes"] for e in events if e["ph"] == "C"]
    assert max(counters) == found.memory.peak_bytes


def test_fits_are_those_of_the_sizes_found(found) -> None:
    small = Device("small", "microcontroller", found.memory.weight_bytes, found.memory.peak_bytes)
    assert fits(found, small).fits
    assert fits(found, replace(small, ram_bytes=found.memory.peak_bytes - 1)).fits is False
    assert {item.device.name for item in found.fits} >= {"server", "Arduino Nano 33 BLE"}


def test_names_that_are_not_there_are_refused(found) -> None:
    with pytest.raises(InvalidInput, match="no operator 'conv9'"):
        found.operator("conv9")
    with pytest.raises(InvalidInput, match="no run in 'tensorrt'; there is eager"):
        found.run("tensorrt")


# --- without runtimes


def test_counting_needs_no_run() -> None:
    seen: list[str] = []
    found = profile(Net(), torch.zeros(1, 3, 8, 8), runtimes=(), progress=seen.append)
    assert found.runs == ()
    assert found.operators[0].seconds == {}
    assert seen == ["tracing the model", "counting"]
    assert "stem:conv2d" in str(found)


def test_a_model_that_does_not_fit_memory_is_refused_before_it_runs() -> None:
    with pytest.raises(InvalidInput) as caught:
        profile(Net(), torch.zeros(1, 3, 8, 8), batch=10**9)
    said = str(caught.value)
    assert "needs 1.02 TB at least" in said
    assert "activations at stem:conv2d" in said
    assert "take a smaller batch" in said


def test_a_machine_that_does_not_tell_its_memory_refuses_nothing(monkeypatch) -> None:
    unknown = Machine.from_json({**Environment.capture().machine.to_json(), "memory_bytes": 0})
    environment = replace(Environment.capture(), machine=unknown)
    monkeypatch.setattr(Environment, "capture", classmethod(lambda cls: environment))
    assert profile(Net(), torch.zeros(1, 3, 8, 8), batch=10**9, runtimes=()).batch == 10**9


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 3, 0, 8)])
def test_zero_size_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match="no element"):
        profile(Net(), torch.zeros(*shape))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch": 0}, "batch=0"),
        ({"threads": 0}, "threads=0"),
        ({"seconds": 0}, "seconds=0"),
        ({"seconds": math.nan}, "seconds=nan"),
        ({"runtimes": ("tensorrt",)}, "no runtime 'tensorrt'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        profile(Net(), torch.zeros(1, 3, 8, 8), **settings)


def test_a_call_without_a_batch_has_one_batch_only() -> None:
    fixed = Inputs(torch.zeros(1, 3, 8, 8), batch_axis=None)
    assert profile(Net(), fixed, runtimes=()).batch == 1
    with pytest.raises(InvalidInput, match="no input has a batch axis"):
        profile(Net(), fixed, batch=2, runtimes=())


def test_a_parameter_that_nobody_reads_is_noted() -> None:
    model = Net()
    model.forgotten = nn.Linear(100, 100)
    (note,) = profile(model, torch.zeros(1, 3, 8, 8), runtimes=()).notes
    assert note == "10.1 k of the model's parameters are read by no operator"


def test_an_unknown_operator_is_noted() -> None:
    class Spectrum(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.rfft(x).abs()  # type: ignore[no-any-return]

    found = profile(Spectrum(), torch.zeros(2, 8), runtimes=())
    assert "not known, and count 0 in the total, for fft_rfft" in found.notes[0]
    assert " ? " in str(found)


# --- runtimes that cannot say much


class _Worker:
    """A worker of made-up times."""

    def __init__(self, artifact: Artifact, seconds: float, times: Any) -> None:
        self.artifact = artifact
        self.seconds = seconds
        self._times = times

    def memory_bytes(self) -> int:
        return 0

    def count(self, inputs: Any, *, repeats: int) -> Any:
        if isinstance(self._times, Exception):
            raise self._times
        times = tuple(OpTime(name, "kind", seconds) for name, seconds in self._times.items())
        return type("Counts", (), {"times": times, "seconds": self.seconds})()


class _Workers:
    """Stands for the workers: eager takes `seconds`, with its rounds `spread` apart."""

    reasons: Mapping[str, str] = MappingProxyType({"openvino": "openvino crashed while loading"})

    def __init__(
        self, artifacts: Mapping[str, Artifact], seconds: float, times: Any, spread: float
    ) -> None:
        self._artifact = artifacts["eager"]
        self._seconds, self._times, self._spread = seconds, times, spread
        self.labels = ["eager"]

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def race(self, labels: Any, inputs: Any, seconds: float, told: Any) -> Race:
        random = np.random.default_rng(0)

        def clock(artifact: Artifact, inputs: Any, runs: int) -> Any:
            return np.full(runs, self._seconds * random.uniform(1, self._spread))

        return race({"eager": self._artifact}, inputs, seconds=0.1, clock=clock)

    def worker(self, label: str) -> _Worker:
        return _Worker(self._artifact, self._seconds, self._times)


def _profiled(monkeypatch, seconds: float, times: Any, spread: float = 1.0) -> Any:
    def export(traced: Any, name: str, folder: Path) -> Any:
        if name == "onnxruntime":
            raise Unsupported("onnxruntime has no such operator")
        folder.mkdir()
        (folder / "f").touch()
        return Artifact(folder, name, "float32", ("f",), (), (_port(),))

    def workers(artifacts: Any, inputs: Any) -> _Workers:
        return _Workers(dict(artifacts), seconds, times, spread)

    monkeypatch.setattr(_measure, "export", export)
    monkeypatch.setattr(_measure, "Workers", workers)
    return profile(Net(), torch.zeros(1, 3, 8, 8))


def _port() -> Any:
    from burnish.bundle import Port

    return Port("y", "float32", (1,))


def test_a_runtime_that_refuses_or_fails_leaves_the_others_alone(monkeypatch) -> None:
    found = _profiled(monkeypatch, 1e-3, {"stem:conv2d": 8e-4, "reorder": 1e-4})
    assert found.run("onnxruntime").failed == "onnxruntime has no such operator"
    assert found.run("openvino").failed == "openvino crashed while loading"
    run = found.run("eager")
    assert (run.attributed_ms, run.counted_ms) == (pytest.approx(0.8), pytest.approx(0.9))
    assert run.share == pytest.approx(0.8)
    assert [kernel.name for kernel in run.rest] == ["reorder"]
    assert run.reliable
    assert run.note is None
    assert set(found.operators[0].seconds) == {"eager"}
    text = str(found)
    assert "no such operator" in text
    assert "crashed while loading" in text


@pytest.mark.parametrize(("counted", "share"), [(7e-4, "70%"), (1.2e-3, "120%")])
def test_counters_that_do_not_add_up_are_told(monkeypatch, counted: float, share: str) -> None:
    run = _profiled(monkeypatch, 1e-3, {"stem:conv2d": counted}).run("eager")
    assert run.reliable
    assert run.note == (
        f"the counters add up to {share} of a call: read them as shares, not as times"
    )


def test_without_counters_the_latency_stands_and_the_reason_is_told(monkeypatch) -> None:
    found = _profiled(monkeypatch, 1e-3, RuntimeFailed("profiling is not built in"))
    run = found.run("eager")
    assert run.latency is not None
    assert run.reliable
    assert run.attributed_ms is None
    assert run.note == "no times per operator: profiling is not built in"
    assert found.operators[0].seconds == {"eager": None}
    assert "profiling is not built in" in " ".join(str(found).split())


@pytest.mark.parametrize(
    ("seconds", "counted", "words"),
    [
        (5e-7, 4e-7, "under a microsecond"),
        (2e-5, 5e-7, "under a microsecond"),
        (2e-5, 4e-6, "mostly the call"),
    ],
)
def test_what_is_too_short_to_be_timed_is_marked(
    monkeypatch, seconds: float, counted: float, words: str
) -> None:
    run = _profiled(monkeypatch, seconds, {"stem:conv2d": counted}).run("eager")
    assert not run.reliable
    assert words in run.note
    assert "larger batch" in run.note


def test_a_restless_machine_is_told(monkeypatch) -> None:
    found = _profiled(monkeypatch, 1e-2, {"stem:conv2d": 9e-3}, spread=4.0)
    assert not found.run("eager").reliable
    assert "rounds disagree" in found.run("eager").note
    assert "unreliable: rounds disagree" in " ".join(str(found).split())


def test_a_model_that_does_next_to_nothing_is_marked() -> None:
    found = profile(nn.ReLU(), torch.zeros(1, 4), seconds=0.2, threads=1, runtimes=("onnxruntime",))
    (run,) = found.runs
    assert run.latency is not None
    assert not run.reliable

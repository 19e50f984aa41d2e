"""A probe of this machine is whole, kept, and renewed only when asked.

The slow ones measure: one whole probe, shared, and one in a process of its own under masks, which
are read when a library is loaded. What is measured is looked at in test_probe_peaks.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from burnish.bench import Environment
from burnish.errors import InvalidInput, Unsupported
from burnish.hardware import detect
from burnish.profile import _probe_run
from burnish.profile._probe import DTYPES, Probe
from burnish.profile._probe_cache import Conditions
from burnish.profile._probe_graphs import RUNTIMES
from burnish.profile._probe_run import last_probe, probe
from tests.profile.probes import made_up


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path))
    return tmp_path


Real = tuple[Probe, list[tuple[str, float]]]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    """A short probe with one thread, and what its progress was told."""
    patch = pytest.MonkeyPatch()
    patch.setenv("BURNISH_CACHE", str(tmp_path_factory.mktemp("cache")))
    told: list[tuple[str, float]] = []
    yield probe(threads=1, seconds=0.5, progress=lambda *step: told.append(step)), told
    patch.undo()


@pytest.mark.slow
def test_every_runtime_is_asked_about_every_type(real: Real) -> None:
    found, told = real
    asked = {(runtime, dtype) for runtime in RUNTIMES for dtype in DTYPES}
    assert {(row.runtime, row.dtype) for row in found.peaks} == asked
    assert {(row.runtime, row.dtype) for row in found.capabilities} == asked
    for runtime in RUNTIMES:
        known = found.capability(runtime, "float32")
        assert known is not None
        assert (known.state, known.speed) == ("native", 1.0)
    assert [row.level for row in found.bandwidths][-1] == "memory"
    assert {row.runtime for row in found.dispatches} == set(RUNTIMES)
    assert all(row.seconds < 1e-3 for row in found.dispatches)
    assert found.environment == Environment.capture().fingerprint
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


@pytest.mark.slow
def test_it_is_read_back_and_not_measured_again(
    real: Real, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_probe_run, "_measure", None)
    assert probe(threads=1) == real[0]
    assert last_probe(threads=1) == real[0]
    with pytest.raises(TypeError):
        probe(threads=1, renew=True)


def test_what_was_not_measured_is_not_there(cache: Path) -> None:
    assert last_probe() is None


@pytest.mark.parametrize("threads", [0, -1, 10_000])
def test_threads_beyond_the_cores_are_refused(cache: Path, threads: int) -> None:
    with pytest.raises(InvalidInput, match="the cores this process may use"):
        probe(threads=threads)
    with pytest.raises(InvalidInput, match="the cores this process may use"):
        last_probe(threads=threads)


def test_no_time_is_refused(cache: Path) -> None:
    with pytest.raises(InvalidInput, match="seconds is 0"):
        probe(seconds=0)


def test_a_cache_that_cannot_be_written_costs_nothing_but_a_note(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = cache / "file"
    blocked.touch()
    monkeypatch.setenv("BURNISH_CACHE", str(blocked / "below"))
    monkeypatch.setattr(_probe_run, "_measure", lambda *_: made_up())
    found = probe()
    assert found.peaks == made_up().peaks
    assert "could not be kept" in found.notes[-1]


def test_without_a_folder_for_files_it_is_refused_in_words(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryDirectory", full)
    with pytest.raises(Unsupported, match=r"No space left on device.*TMPDIR"):
        probe()


def test_under_half_a_core_nothing_is_reliable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured as ever, in a container that stops a single thread half of the time."""
    row = made_up()
    monkeypatch.setattr(_probe_run, "subjects", lambda *_: ())
    monkeypatch.setattr(_probe_run, "measure_peaks", lambda *_: (row.peaks, row.capabilities))
    monkeypatch.setattr(_probe_run, "measure_dispatch", lambda *_: (row.dispatches, ()))
    monkeypatch.setattr(_probe_run, "read_bandwidths", lambda *_: (row.bandwidths, ()))
    monkeypatch.setattr(
        _probe_run, "TorchKernels", lambda: SimpleNamespace(names=None, close=lambda: None)
    )
    conditions = Conditions("0" * 12, {}, 1)
    half = replace(detect(), quota=0.5, cores=1)
    found = _probe_run._measure(half, conditions, 1.0, lambda *_: None)
    assert not any(peak.reliable for peak in found.peaks)
    assert not any(level.reliable for level in found.bandwidths)
    assert not any(each.reliable for each in found.dispatches)
    assert "a quota of 0.5 cores" in found.notes[0]
    whole = _probe_run._measure(replace(half, quota=1.5), conditions, 1.0, lambda *_: None)
    assert any(row.reliable for row in whole.peaks)
    assert whole.notes == ()


MASKS = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "default"}
SCRIPT = """
import json
from burnish.profile import probe
print(json.dumps(probe(threads=1, seconds=0.5).to_json()))
"""


@pytest.mark.slow
def test_with_the_special_instructions_masked_everything_works_and_says_so(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        **MASKS,
        "BURNISH_CACHE": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, timeout=240
    )
    assert done.returncode == 0, done.stderr
    found = Probe.from_json(json.loads(done.stdout.splitlines()[-1]))
    assert found.masks == MASKS
    for runtime in RUNTIMES:
        assert (found.peak(runtime, "float32") or 0.0) > 1e8
    for row in found.capabilities:
        if row.dtype == "bfloat16":
            assert row.state != "native", row
            assert row.reason
    doctor = subprocess.run(
        [sys.executable, "-m", "burnish", "doctor", "--no-measure"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert doctor.returncode == 0, doctor.stderr
    for mask, value in MASKS.items():
        assert mask in doctor.stdout
        assert value in doctor.stdout

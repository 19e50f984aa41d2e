"""What a runtime does wrong stays in its process, is told by kind, and leaves nothing behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from burnish.bundle import Artifact, Worker
from burnish.errors import Damaged, InvalidInput, MissingExtra, RuntimeFailed
from tests.bundle import models

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs signals")


def gone(pid: int, seconds: float = 5.0) -> bool:
    """Whether the process ends within `seconds` (a zombie has ended)."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x0a" * 500])
def test_a_corrupt_file_is_refused(tmp_path: Path, content: bytes) -> None:
    artifact = models.onnx_artifact(tmp_path)
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(RuntimeFailed, match=r"model\.onnx") as error:
        Worker(artifact)
    assert error.value.reason == "refused"


def test_a_missing_file_is_damage(tmp_path: Path) -> None:
    artifact = models.onnx_artifact(tmp_path)
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(Damaged, match=r"model\.onnx"):
        Worker(artifact)


def test_a_crash_while_loading_is_told_with_the_last_words(
    onnx_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = "sys.stderr.write('cannot go on\\n'); sys.stderr.flush(); os.abort()"
    monkeypatch.setenv("PYTHONPATH", models.fake_onnxruntime(tmp_path, load=load))
    with pytest.raises(RuntimeFailed, match="crashed while loading") as error:
        Worker(onnx_artifact)
    assert error.value.reason == "crashed"
    assert "cannot go on" in str(error.value)
    if os.name == "posix":
        assert "SIGABRT" in str(error.value)


def test_an_exit_while_loading_is_a_crash(
    onnx_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", models.fake_onnxruntime(tmp_path, load="os._exit(7)"))
    with pytest.raises(RuntimeFailed, match="exit code 7") as error:
        Worker(onnx_artifact)
    assert error.value.reason == "crashed"


def test_a_runtime_that_hangs_while_loading_is_ended(
    onnx_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", models.fake_onnxruntime(tmp_path, load="time.sleep(600)"))
    start = time.monotonic()
    with pytest.raises(RuntimeFailed, match="hung while loading") as error:
        Worker(onnx_artifact, timeout=2.0)
    assert error.value.reason == "hung"
    assert time.monotonic() - start < 10


def test_an_error_while_running_is_refused_and_the_worker_lives(
    onnx_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = "if len(feed['x']) > 1: raise RuntimeError('too many')"
    monkeypatch.setenv("PYTHONPATH", models.fake_onnxruntime(tmp_path, run=run))
    with Worker(onnx_artifact) as worker:
        with pytest.raises(RuntimeFailed, match="too many") as error:
            worker.run(models.samples(2))
        assert error.value.reason == "refused"
        assert worker.run(models.samples(1))[0].shape == (1, models.CLASSES)


def test_chatter_on_standard_output_does_no_harm(
    onnx_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chatter = "print('loading' * 5000); os.write(1, b'raw' * 5000)"
    monkeypatch.setenv("PYTHONPATH", models.fake_onnxruntime(tmp_path, load=chatter, run=chatter))
    with Worker(onnx_artifact) as worker:
        for _ in range(20):
            np.testing.assert_array_equal(worker.run(models.samples(1))[0], 0)


def test_slow_is_not_hung(
    onnx_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long series with each run below the timeout: signs of life keep it going."""
    monkeypatch.setenv("PYTHONPATH", models.fake_onnxruntime(tmp_path, run="time.sleep(0.25)"))
    with Worker(onnx_artifact, timeout=2.0) as worker:
        times = worker.time(models.samples(1), repeats=12)
    assert times.sum() > 2.5


def test_a_missing_runtime_is_told_with_the_line_that_installs_it(
    onnx_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = "raise ModuleNotFoundError('no', name='onnxruntime')"
    monkeypatch.setenv("PYTHONPATH", models.fake_onnxruntime(tmp_path, top=missing))
    with pytest.raises(MissingExtra, match="pip install onnxruntime"):
        Worker(onnx_artifact)


@POSIX
def test_a_child_killed_while_running_is_a_crash(onnx_artifact: Artifact) -> None:
    worker = Worker(onnx_artifact)
    worker.run(models.samples(1))
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(RuntimeFailed, match="crashed while running: killed by SIGKILL") as error:
        worker.run(models.samples(1))
    assert error.value.reason == "crashed"
    with pytest.raises(InvalidInput, match="closed"):
        worker.run(models.samples(1))


@POSIX
@pytest.mark.parametrize("count", [1, 100_000])
def test_a_child_that_stands_still_is_ended(onnx_artifact: Artifact, count: int) -> None:
    """Whether we wait for its answer or, with more input than a pipe holds, for it to read."""
    worker = Worker(onnx_artifact, timeout=1.0)
    os.kill(worker.pid, signal.SIGSTOP)
    with pytest.raises(RuntimeFailed, match="hung while running") as error:
        worker.run(models.samples(count))
    assert error.value.reason == "hung"
    assert gone(worker.pid)


def test_closing_or_dropping_a_worker_ends_its_child(onnx_artifact: Artifact) -> None:
    with Worker(onnx_artifact) as worker:
        pid = worker.pid
    assert gone(pid)
    worker.close()
    dropped = Worker(onnx_artifact)
    pid = dropped.pid
    del dropped
    gc.collect()
    assert gone(pid)


@POSIX
def test_what_a_runtime_has_forked_goes_with_it(
    onnx_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the runtime dies and its fork would hold the pipes open."""
    fork = "pid = os.fork()\n        if pid == 0: time.sleep(300)"
    fork += f"\n        open({str(tmp_path / 'pid')!r}, 'w').write(str(pid))"
    run = "os._exit(3)"
    monkeypatch.setenv("PYTHONPATH", models.fake_onnxruntime(tmp_path, load=fork, run=run))
    for crash in (False, True):
        with Worker(onnx_artifact, timeout=20.0) as worker:
            forked = int((tmp_path / "pid").read_text())
            if crash:
                with pytest.raises(RuntimeFailed, match="exit code 3"):
                    worker.run(models.samples(1))
        assert gone(forked)


@POSIX
def test_no_child_outlives_a_parent_that_is_killed(
    onnx_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even in the middle of a run that would take minutes."""
    fake = models.fake_onnxruntime(tmp_path, run="time.sleep(300)")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([fake, *sys.path]))
    script = (
        "import sys, threading, time\n"
        "from pathlib import Path\n"
        "from burnish.bundle import Artifact, Worker\n"
        "from tests.bundle import models\n"
        "worker = Worker(Artifact.open(Path(sys.argv[1])))\n"
        "threading.Thread(target=worker.run, args=(models.samples(1),), daemon=True).start()\n"
        "time.sleep(0.3)\n"
        "print(worker.pid, flush=True)\n"
        "time.sleep(300)\n"
    )
    command = [sys.executable, "-c", script, str(onnx_artifact.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not gone(pid, 0.1)
        parent.kill()
    assert gone(pid)

"""Workers: three runtimes against numpy, in a process of their own with the artifact's threads."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from burnish.bundle import Artifact, OpTime, Port, Worker
from burnish.bundle._artifact import RUNTIMES
from burnish.bundle._session import _TABLE
from burnish.errors import InvalidInput, RuntimeFailed
from burnish.hardware import detect
from tests.bundle import models

COMPILES = pytest.param("inductor", marks=pytest.mark.slow)


@pytest.fixture(
    scope="module", params=[COMPILES if name == "inductor" else name for name in RUNTIMES]
)
def worker(request: pytest.FixtureRequest) -> Iterator[Worker]:
    name = request.param.removesuffix("runtime")
    artifact: Artifact = request.getfixturevalue(f"{name}_artifact")
    with Worker(artifact.with_options(threads=1)) as loaded:
        yield loaded


def loaded_modules(worker: Worker) -> set[str]:
    return set(worker._ask({"do": "modules"})[0]["modules"])


def test_every_runtime_an_artifact_may_name_has_a_session() -> None:
    assert set(_TABLE) == set(RUNTIMES)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_it_gives_what_numpy_gives_at_any_batch(worker: Worker, batch: int) -> None:
    inputs = models.samples(batch, seed=batch)
    (output,) = worker.run(inputs)
    assert output.dtype == np.float32
    np.testing.assert_allclose(output, models.expected(inputs), rtol=1e-4, atol=1e-5)


def test_outputs_outlive_the_next_run(worker: Worker) -> None:
    (first,) = worker.run(models.samples(2, seed=1))
    kept = first.copy()
    worker.run(models.samples(2, seed=2))
    np.testing.assert_array_equal(first, kept)


def test_times_are_seconds_of_each_run(worker: Worker) -> None:
    start = time.perf_counter()
    times = worker.time(models.samples(4), repeats=20, warmup=3)
    elapsed = time.perf_counter() - start
    assert times.shape == (20,)
    assert times.dtype == np.float64
    assert (times > 0).all()
    assert times.sum() < elapsed
    assert worker.load_seconds > 0


def test_operator_times_name_what_ran(worker: Worker) -> None:
    times = worker.op_times(models.samples(4), repeats=5)
    assert times
    assert all(isinstance(item, OpTime) and item.seconds >= 0 and item.name for item in times)
    assert len({item.name for item in times}) == len(times)
    kinds = " ".join(item.kind.lower() for item in times)
    assert any(word in kinds for word in ("gemm", "matmul", "fullyconnected", "linear"))


def test_peak_memory_is_told_and_never_falls(worker: Worker) -> None:
    with Worker(worker.artifact) as fresh:  # the other has read a profile, which takes memory, too
        before = fresh.memory_bytes()
        fresh.run(models.samples(200_000))
        after = fresh.memory_bytes()
    assert 10_000_000 < before < after
    assert after - before > 200_000 * models.WIDTH * 4


def test_only_eager_and_inductor_load_torch(worker: Worker) -> None:
    loaded = loaded_modules(worker)
    assert ("torch" in loaded) == (worker.artifact.runtime in ("eager", "inductor"))
    others = {"onnxruntime", "openvino", "torch"} - {
        {"eager": "torch", "inductor": "torch"}.get(
            worker.artifact.runtime, worker.artifact.runtime
        )
    }
    assert not others & loaded


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here")
def test_a_runtime_leaves_no_process_behind(openvino_artifact: Artifact) -> None:
    """Importing OpenVINO would fork one that reports the import to its makers."""
    with Worker(openvino_artifact) as worker:
        session = os.getsid(worker.pid)
        time.sleep(0.3)
        assert processes_of(session) == [worker.pid]
        assert "openvino_telemetry.backend" not in loaded_modules(worker)
    assert processes_of(session) == []


def processes_of(session: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[3]) == session:
                found.append(int(path.parent.name))
    return found


def test_inputs_are_checked_before_they_are_sent(worker: Worker) -> None:
    with pytest.raises(InvalidInput, match="'x' takes float32"):
        worker.run({"x": np.zeros((2, models.WIDTH))})
    with pytest.raises(InvalidInput, match="repeats"):
        worker.time(models.samples(1), repeats=0)
    worker.run(models.samples(1))


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no pinning on this system")
def test_the_child_is_pinned_to_the_first_usable_core(worker: Worker) -> None:
    assert os.sched_getaffinity(worker.pid) == {min(os.sched_getaffinity(0))}


@pytest.mark.skipif(os.name != "posix", reason="no sessions on this system")
def test_an_interrupt_at_the_keyboard_is_the_parents_business(worker: Worker) -> None:
    assert os.getsid(worker.pid) != os.getsid(0)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc here")
def test_the_child_is_told_its_threads(worker: Worker) -> None:
    environment = Path(f"/proc/{worker.pid}/environ").read_bytes().split(b"\0")
    assert {b"OMP_NUM_THREADS=1", b"MKL_NUM_THREADS=1"} <= set(environment)


def test_bfloat16_is_asked_for_and_float32_is_kept(openvino_artifact: Artifact) -> None:
    """Left alone OpenVINO may choose bfloat16 by itself: the default must not."""
    inputs = models.samples(64)
    want = models.expected(inputs)
    with Worker(openvino_artifact) as worker:
        exact = np.abs(worker.run(inputs)[0] - want).max()
    assert exact < 1e-5
    if not detect().supports_bfloat16:
        pytest.skip("this processor has no bfloat16")
    with Worker(openvino_artifact.with_options(execution="bfloat16")) as worker:
        rounded = np.abs(worker.run(inputs)[0] - want).max()
    assert rounded > 100 * exact


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"execution": "bfloat16"}, "bfloat16"), ({"device": "npu"}, "'npu'")],
)
def test_what_a_runtime_cannot_do_is_refused(
    onnx_artifact: Artifact, changes: dict[str, str], told: str
) -> None:
    with pytest.raises(RuntimeFailed, match=told) as error:
        Worker(onnx_artifact.with_options(**changes))
    assert error.value.reason == "refused"


@pytest.mark.parametrize(
    "runtime", ["onnxruntime", "openvino", pytest.param("eager", marks=pytest.mark.slow)]
)
def test_a_record_that_does_not_fit_the_file_is_refused(
    runtime: str, request: pytest.FixtureRequest
) -> None:
    artifact = request.getfixturevalue(f"{runtime.removesuffix('runtime')}_artifact")
    two = (*models.INPUTS, Port("z", "float32", ("batch", 1)))
    wrong = Artifact(artifact.folder, runtime, "float32", artifact.files, two, models.OUTPUTS)
    with pytest.raises(RuntimeFailed, match="the artifact says") as error:
        Worker(wrong)
    assert error.value.reason == "refused"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_an_idle_session_leaves_the_cores_alone(tmp_path: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("a single core has no pool of threads")
    wide = 512
    weight = np.ones((wide, wide), np.float32)
    artifact = models.onnx_artifact(tmp_path, weight=weight, bias=weight[0])
    ports = (Port("x", "float32", ("batch", wide)),), (Port("y", "float32", ("batch", wide)),)
    artifact = Artifact(tmp_path, "onnxruntime", "float32", artifact.files, *ports)
    inputs = {"x": np.ones((256, wide), np.float32)}
    with Worker(artifact.with_options(threads=2)) as worker:
        worker.time(inputs, repeats=20)
        spent = []
        for _ in range(5):
            worker.time(inputs, repeats=5)
            before = cpu_seconds(worker.pid)
            time.sleep(0.05)
            spent.append(cpu_seconds(worker.pid) - before)
    assert np.median(spent) < 0.005


def cpu_seconds(pid: int) -> float:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) * 1e-9


def test_openvino_compiles_for_four_sizes_and_once_for_all_others(
    openvino_artifact: Artifact,
) -> None:
    """Each prepares in its first run only, and all answer alike."""
    with Worker(openvino_artifact) as worker:
        prepared = []
        for num in (1, 3, 5, 7, 9, 11, 1, 7, 9, 2):
            before = worker.load_seconds
            inputs = models.samples(num)
            assert np.allclose(worker.run(inputs)[0], models.expected(inputs), atol=1e-5)
            prepared.append(worker.load_seconds - before)
        compiled = [index for index, seconds in enumerate(prepared) if seconds > 1e-3]
        assert compiled == [0, 1, 2, 3, 4]
        kinds = [worker.op_times(models.samples(num), repeats=2) for num in (3, 9)]
    assert all(kinds)

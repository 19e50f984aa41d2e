"""torch.compile as a runtime: what it computes, what it fuses, and what it says when it cannot."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from burnish.bench import race
from burnish.bundle import Bundle, Worker, verify
from burnish.bundle._inductor import drop_unfinished
from burnish.bundle._inductor import load as load_here
from burnish.bundle._inductor_kernels import with_clocks
from burnish.errors import MissingExtra, Unsupported
from burnish.graph import Traced, trace
from burnish.quantize import cast
from burnish.runtimes import Artifact, available, export, load

pytestmark = pytest.mark.skipif(
    available()["inductor"] is not None, reason=str(available()["inductor"])
)
SIDE = 8


class Block(nn.Module):
    """A convolution with batch-norm and ReLU, a residual, a linear layer and a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.body = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.body(x))
        return F.softmax(self.head(x.mean((2, 3))), 1)


def images(batch: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def arrays(batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    return {"x": images(batch, seed).numpy()}


@pytest.fixture(scope="module")
def model() -> Traced:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = Block().eval()
        assert block.norm.running_var is not None
        block.norm.running_var.uniform_(0.5, 2.0)
    return trace(block, (images(2),))


@pytest.fixture(scope="module")
def artifact(model: Traced, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    exported = export(model, "inductor", tmp_path_factory.mktemp("inductor"))
    return exported.with_options(threads=1)


@pytest.fixture(scope="module")
def cache() -> Path:
    """Where kernels are kept; see tests/conftest.py."""
    return Path(os.environ["BURNISH_CACHE"]) / "inductor"


@pytest.fixture(scope="module")
def worker(artifact: Artifact) -> Iterator[Worker]:
    with load(artifact) as loaded:
        yield loaded


def test_compiling_is_load_time_and_no_run_is_timed_with_it(worker: Worker) -> None:
    before = worker.load_seconds
    seconds = worker.time(arrays(1), repeats=3)
    compiled = worker.load_seconds - before
    assert compiled > 0.1
    assert seconds.max() < compiled / 5
    worker.prepare(arrays(1))
    assert worker.load_seconds - before - compiled < 0.01


def test_it_computes_what_was_traced(worker: Worker, model: Traced) -> None:
    (given,) = worker.run(arrays(1))
    with torch.no_grad():
        np.testing.assert_allclose(given, model(images(1)).numpy(), rtol=1e-4, atol=1e-6)


def test_kernels_tell_the_operators_they_fused(worker: Worker) -> None:
    counts = worker.count(arrays(1), repeats=8)
    members = [set(item.members) for item in counts.times]
    assert {"stem:conv2d", "norm:batch_norm", "relu"} in members
    assert {"body:conv2d", "add", "relu#2"} in members
    assert {"mean", "head:linear", "softmax"} in members
    assert len({item.name for item in counts.times}) == len(counts.times)
    assert all(item.seconds > 0 and item.kind in item.name for item in counts.times)
    assert sum(item.seconds for item in counts.times) < counts.counted_seconds


def test_kernels_are_kept_in_our_cache_folder_without_pickles(worker: Worker, cache: Path) -> None:
    worker.prepare(arrays(1))
    kept = [path for path in cache.rglob("*") if path.is_file()]
    assert [path for path in kept if path.suffix == ".so"]
    assert not [path for path in kept if path.read_bytes()[:2] == b"\x80\x04"]
    if os.name == "posix":
        assert stat.S_IMODE(cache.stat().st_mode) == 0o700


def test_a_missing_compiler_is_told_with_the_line_that_installs_one(
    artifact: Artifact, model: Traced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    reason = available()["inductor"]
    assert reason is not None
    assert "'no-such-compiler'" in reason
    assert "install" in reason
    with pytest.raises(MissingExtra, match="no-such-compiler"):
        export(model, "inductor", tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(MissingExtra, match="no-such-compiler"):
        load_here(artifact, 1)


def test_a_cache_folder_that_cannot_be_written_is_named(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "file"))
    with pytest.raises(Unsupported, match=r"file/inductor.*BURNISH_CACHE"):
        load_here(artifact, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="a compiler made of a shell script")
def test_a_compiler_that_fails_is_one_candidates_failure(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "g++"
    broken.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exec g++ --version\necho error: out of ink\nexit 1\n'
    )
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path))
    found = race({"compiled": artifact}, arrays(1), seconds=0.1)
    failed = found.timing("compiled").failed
    assert failed is not None
    assert "inductor could not compile it" in failed
    assert "out of ink" in failed


@pytest.mark.skipif(os.name != "posix", reason="looks for a process by a signal")
def test_what_a_killed_process_was_compiling_is_removed(tmp_path: Path) -> None:
    """Torch would load it, or take the instructions it was to probe for absent."""
    (tmp_path / "ab").mkdir()
    old, half, text = (tmp_path / "ab" / name for name in ("old.so", "half.so", "half.cpp"))
    for path in (old, half, text):
        path.touch()
    os.utime(old, (1, 1))
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    marker, busy = tmp_path / f"compiling-{ended.pid}", tmp_path / f"compiling-{os.getppid()}"
    busy.touch()
    drop_unfinished(tmp_path)
    assert half.exists()
    marker.touch()
    os.utime(marker, (100, 100))
    drop_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["half.cpp", "old.so"]
    assert busy.exists()
    assert not marker.exists()


def test_precisions_it_has_not_are_refused(model: Traced, tmp_path: Path) -> None:
    for precision in ("int8", "float16"):
        with pytest.raises(Unsupported, match=r"inductor artifacts come in float32, bfloat16"):
            export(model, "inductor", tmp_path, precision=precision)
    with pytest.raises(Unsupported, match=r"quantize\.Cast"):
        export(model, "inductor", tmp_path, precision="bfloat16")


WRAPPER = """
def call(args):
    x, = args
    # [Provenance debug handles] cpp_fused_add_0:1
    y = empty_strided_cpu((2,), (1,))
    cpp_fused_add_0(x, y)
    # [Provenance debug handles] extern_kernels.mm:2
    z = extern_kernels.mm(
        y, y)
    cpp_fused_add_0(z, y)
    return (y, )
"""


def test_the_clock_is_read_around_each_noted_call() -> None:
    source, kernels = with_clocks(WRAPPER)
    assert kernels == ["cpp_fused_add_0:1", "extern_kernels.mm:2"]
    lines = [line.strip() for line in source.splitlines()]
    clock = "_burnish_clock()"
    assert [i for i, line in enumerate(lines) if line == clock] == [5, 7, 9, 12]
    assert lines[6].startswith("cpp_fused_add_0(x")
    assert lines[10:12] == ["z = extern_kernels.mm(", "y, y)"]


@pytest.mark.parametrize(
    ("found", "told"),
    [("cpp_fused_add_0(x, y)", "does not call the kernel"), ("# [Prov", "no kernel")],
)
def test_a_wrapper_that_is_not_understood_is_refused(found: str, told: str) -> None:
    without = WRAPPER.replace(found, "pass  # ").replace("cpp_fused_add_0(z, y)", "pass")
    with pytest.raises(Unsupported, match=told):
        with_clocks(without)


@pytest.mark.slow
def test_bfloat16_computes_in_what_the_graph_was_cast_to(model: Traced, tmp_path: Path) -> None:
    small = cast(model, "bfloat16", [images(4)])
    artifact = export(small, "inductor", tmp_path, precision="bfloat16")
    assert artifact.size_bytes() < 0.8 * export(model, "inductor", tmp_path / "32").size_bytes()
    with load(artifact.with_options(threads=1)) as worker:
        (given,) = worker.run(arrays(2))
        kinds = {item.kind for item in worker.op_times(arrays(2), repeats=4)}
    with torch.no_grad():
        wanted = model(images(2)).numpy()
    assert given.dtype == np.float32
    assert 1e-6 < np.abs(given - wanted).max() < 0.02
    assert any("conv" in kind for kind in kinds)


@pytest.mark.slow
def test_a_bundle_of_it_verifies(model: Traced, artifact: Artifact, tmp_path) -> None:
    with torch.no_grad():
        outputs = [model(images(2)).numpy()]
    Bundle.write(
        tmp_path / "bundle",
        artifact,
        check_inputs=arrays(2),
        check_outputs=outputs,
        expected={},
        history=[],
        environment={},
    )
    found = verify(tmp_path / "bundle")
    assert found.ok, str(found)


@pytest.mark.slow
def test_the_second_load_finds_the_kernels(artifact: Artifact, cache: Path) -> None:
    with load(artifact) as first:
        first.prepare(arrays(1))
    with load(artifact) as second:
        before = set(cache.rglob("*.so"))
        second.prepare(arrays(1))
    assert set(cache.rglob("*.so")) == before

"""Two processes give what one gives with batches twice as large, and both end with the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.multiprocessing.spawn import start_processes

from burnish.errors import InvalidInput
from burnish.train import fit
from tests.train import processes
from tests.train.small import plain, task


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cases, in two forked processes."""
    folder = tmp_path_factory.mktemp("pair")
    start_processes(
        processes.forked,
        args=(2, processes.free_port(), folder, [*processes.CASES, "resumed"]),
        nprocs=2,
        start_method="fork",
    )
    return folder


def left(folder: Path, case: str, rank: int) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / f"{case}-{rank}.pt", weights_only=True)
    return found


@pytest.mark.parametrize("case", processes.CASES)
def test_both_end_with_the_same(pair: Path, case: str) -> None:
    one, two = left(pair, case, 0), left(pair, case, 1)
    assert one["losses"] == two["losses"]
    assert all(torch.equal(t, two["weights"][name]) for name, t in one["weights"].items())


@pytest.mark.parametrize("case", ["steady", "tricky", "shuffled"])
def test_two_are_as_one_with_twice_the_batch(pair: Path, tmp_path: Path, case: str) -> None:
    alone, together = processes.CASES[case](1, tmp_path), left(pair, case, 0)
    losses = [loss for epoch in alone.record.epochs for loss in epoch.losses]
    assert together["losses"] == pytest.approx(losses, rel=1e-5)
    for name, tensor in alone.model.state_dict().items():
        torch.testing.assert_close(together["weights"][name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torch.distributed.run", "accelerate.commands.launch"])
def test_launchers_start_it(tmp_path: Path, root: Path, launcher: str) -> None:
    port = str(processes.free_port())
    options = {
        "torch.distributed.run": f"--nproc-per-node 2 --master-port {port}",
        "accelerate.commands.launch": "--multi_gpu --num_processes 2 --num_machines 1 "
        f"--mixed_precision no --dynamo_backend no --main_process_port {port}",
    }[launcher].split()
    script = str(root / "tests/train/processes.py")
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(root), str(root / "src")]),
    }
    subprocess.run(
        [sys.executable, "-m", launcher, *options, script, str(tmp_path), "steady"],
        env=environment,
        check=True,
        timeout=120,
    )
    alone = processes.steady(1, tmp_path).model.state_dict()
    for rank in (0, 1):
        for name, tensor in left(tmp_path, "steady", rank)["weights"].items():
            torch.testing.assert_close(tensor, alone[name], rtol=1e-4, atol=1e-6)


def test_a_process_that_trains_unaware_of_the_others_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InvalidInput, match=r"one of 2 processes, and accelerate sees 1: .*CPU"):
        fit(plain(), task(), epochs=1, learning_rate=0.01)


def test_precision_that_accelerate_was_told_is_refused() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        Accelerator(mixed_precision="bf16")
        with pytest.raises(InvalidInput, match=r"mixed_precision, which fit\(precision=…\)"):
            fit(plain(), task(), epochs=1, learning_rate=0.01)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)

"""Distilling in two processes: adapters and a self-teacher learn as in one with twice the batch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from accelerate.state import AcceleratorState
from torch.multiprocessing.spawn import start_processes

from burnish.distill import KD, Hint, SelfTeacher, Tap, distill
from burnish.errors import InvalidInput
from tests.distill.small import X, Y, student, task, teacher
from tests.train.processes import free_port

CASES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "features": (teacher(), (KD(), Hint(Tap("0")))),
    "itself": (SelfTeacher(0.9), (KD(),)),
}
SETTINGS: dict[str, Any] = {"epochs": 3, "learning_rate": 0.01, "optimizer": "sgd"}


def trained(case: str, size: int) -> dict[str, torch.Tensor]:
    teaching, signals = CASES[case]
    batches = list(zip(X.split(size), Y.split(size), strict=True))
    return distill(student(), teaching, task(train=batches), signals, **SETTINGS).model.state_dict()


def forked(rank: int, port: int, folder: Path) -> None:
    """One of the two processes; each leaves what it came to."""
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ |= {
        "ACCELERATE_USE_CPU": "1",
        "WORLD_SIZE": "2",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    for case in CASES:
        torch.save(trained(case, 16), folder / f"{case}-{rank}.pt")
    with pytest.raises(InvalidInput, match="several processes"):
        distill(student(), teacher(), task(), cache=folder / "cache", **SETTINGS)
    torch.distributed.destroy_process_group()


def test_two_are_as_one_with_twice_the_batch(tmp_path: Path) -> None:
    start_processes(forked, args=(free_port(), tmp_path), nprocs=2, start_method="fork")
    for case in CASES:
        alone = trained(case, 32)
        one, two = (torch.load(tmp_path / f"{case}-{rank}.pt", weights_only=True)
                    for rank in (0, 1))  # fmt: skip
        for name, tensor in alone.items():
            assert torch.equal(one[name], two[name])
            torch.testing.assert_close(one[name], tensor, rtol=1e-4, atol=1e-6)

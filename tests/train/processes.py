"""A training in one of several processes, and starting two of them: what `torchrun` does.

    python -m torch.distributed.run --nproc-per-node 2 tests/train/processes.py FOLDER CASE

Each process leaves its weights and its losses in FOLDER. Run by `test_processes.py`, forked or
through a launcher.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from accelerate.state import AcceleratorState
from torch.utils.data import DataLoader, TensorDataset

from burnish.train import Fitted, Tricks, fit
from tests.train.small import BATCHES, X, Y, network, plain, task

STEADY: dict[str, Any] = {"epochs": 2, "learning_rate": 0.05, "weight_decay": 0.0}


def batches(size: int) -> list[Any]:
    """The samples in their order, in batches of another size."""
    return list(zip(X.split(size), Y.split(size), strict=True))


def steady(processes: int, folder: Path) -> Fitted:
    """Without batch-norm: what one process does with batches twice as large."""
    return fit(plain(), task(train=batches(32 // processes)), optimizer="sgd", **STEADY)


def tricky(processes: int, folder: Path) -> Fitted:
    """Accumulated, clipped and averaged; five batches, of which the last meets the first again."""
    data = BATCHES[:5]
    if processes == 1:
        pairs = [(data[i], data[(i + 1) % 5]) for i in (0, 2, 4)]
        data = [(torch.cat([x, other]), torch.cat([y, more])) for (x, y), (other, more) in pairs]
    tricks = Tricks(accumulate=2, clip=0.1, ema=0.5)
    return fit(plain(), task(train=data), tricks=tricks, **STEADY)


def shuffled(processes: int, folder: Path) -> Fitted:
    """A shuffling loader: the order is that of one process."""
    data = DataLoader(TensorDataset(X, Y), batch_size=32 // processes, shuffle=True)
    return fit(plain(), task(train=data), **STEADY)


def normed(processes: int, folder: Path) -> Fitted:
    """With batch-norm, whose statistics each process gathers from its own batches."""
    return fit(network(), task(train=batches(32 // processes)), **STEADY)


def averaged(processes: int, folder: Path) -> Fitted:
    """The same, and their moving average given back."""
    tricks = Tricks(ema=0.9)
    return fit(network(), task(train=batches(32 // processes)), tricks=tricks, **STEADY)


def resumed(processes: int, folder: Path) -> Fitted:
    """Taken up again from a checkpoint that is there after the first call, with batch-norm."""
    given: dict[str, Any] = {"checkpoints": folder / "checkpoints", **STEADY}
    return fit(network(), task(train=batches(32 // processes)), **given)


CASES: dict[str, Callable[[int, Path], Fitted]] = {
    case.__name__: case for case in (steady, tricky, shuffled, normed, averaged, resumed)
}


def train(folder: Path, cases: list[str]) -> None:
    """As one of the processes that the environment tells of."""
    world = int(os.environ["WORLD_SIZE"])
    for name in cases:
        fitted = CASES[name](world, folder)
        assert fitted.record.num_processes == world
        losses = [loss for epoch in fitted.record.epochs for loss in epoch.losses]
        file = folder / f"{name}-{os.environ['RANK']}.pt"
        torch.save({"weights": fitted.model.state_dict(), "losses": losses}, file)
    torch.distributed.destroy_process_group()


def forked(rank: int, world: int, port: int, folder: Path, cases: list[str]) -> None:
    """The same, in a process forked from one that may have trained alone before."""
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ |= {
        "ACCELERATE_USE_CPU": "1",
        "WORLD_SIZE": str(world),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    train(folder, cases)


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


if __name__ == "__main__":
    train(Path(sys.argv[1]), sys.argv[2:])

"""What every benchmarked model is to the benchmarks: a network, its data, and how it is scored.

Left out: data that does not fit in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from burnish import Inputs, Task
from burnish.errors import InvalidInput
from burnish.metrics import Metric

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
CACHE = ROOT / "burnish-runs" / "benchmark-models"
NUM_TRAINING = 2048  # samples of `training`, at most
Watch = Callable[[Iterable[Any], str], Iterable[Any]]


def unwatched(items: Iterable[Any], title: str) -> Iterable[Any]:
    """No progress bar."""
    return items


@dataclass(frozen=True)
class Sources:
    """Where the data lies, where what is learned from it is kept, and how much of it is used.

    `num_validation` cuts the validation data to that many samples, drawn by `seed`; None keeps all.
    """

    data: Path = DATA
    cache: Path = CACHE
    num_validation: int | None = None
    seed: int = 0
    watch: Watch = unwatched

    def find(self, name: str) -> Path:
        """A file or folder of the data. InvalidInput where it is absent."""
        path = self.data / name
        if not path.exists():
            raise InvalidInput(f"the data is absent: {path}; say with --data where {name} lies")
        return path

    def order(self, n: int) -> list[int]:
        """The numbers below n, shuffled and cut to `num_validation`."""
        generator = torch.Generator().manual_seed(self.seed)
        shuffled: list[int] = torch.randperm(n, generator=generator).tolist()
        return shuffled[: self.num_validation]


@dataclass(frozen=True, eq=False)
class Batch:
    """A call's positional tensors, its targets, and a group per sample where samples have one."""

    args: tuple[torch.Tensor, ...]
    target: torch.Tensor
    groups: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class Model:
    """A network in eval mode with its data.

    `kind` is "convolutional", "transformer" or "recurrent"; `size` says what one sample is.
    `names` are the network's arguments, in order. `training` is what a step that trains may see:
    the calibration data and, where there is more, samples beside it.
    """

    name: str
    title: str
    kind: str
    size: str
    network: nn.Module
    names: tuple[str, ...]
    calibration: tuple[Batch, ...]
    validation: tuple[Batch, ...]
    metric: Metric
    training: tuple[Batch, ...] = ()

    @property
    def grouped(self) -> bool:
        """Whether samples come in groups."""
        return self.validation[0].groups is not None

    def inputs(self) -> Inputs:
        """An example call of two samples."""
        return Inputs(tuple(tensor[:2] for tensor in self.calibration[0].args))

    def calls(self) -> list[tuple[torch.Tensor, ...]]:
        """The calibration data as calls."""
        return [batch.args for batch in self.calibration]

    def task(self) -> Task:
        """What the library asks of a task."""
        return Task(
            inputs=self.inputs(),
            metric=self.metric,
            calibration=self.calibration,
            validation=self.validation,
            train=self.training or None,
            unpack=lambda batch: (Inputs(batch.args), batch.target),
            groups=(lambda batch: batch.groups) if self.grouped else None,
        )


def batches(
    args: Sequence[torch.Tensor],
    target: torch.Tensor,
    size: int,
    groups: torch.Tensor | None = None,
) -> tuple[Batch, ...]:
    """Cut tensors with samples along axis 0 into batches of `size`."""
    return tuple(
        Batch(
            tuple(tensor[at : at + size] for tensor in args),
            target[at : at + size],
            None if groups is None else groups[at : at + size],
        )
        for at in range(0, len(target), size)
    )


def groups_of(model: Model) -> np.ndarray[Any, Any] | None:
    """One label per validation sample, or None where samples are independent."""
    labels = [batch.groups for batch in model.validation if batch.groups is not None]
    return torch.cat(labels).numpy() if labels else None

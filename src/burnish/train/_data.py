"""The batches of each epoch: in which order they are drawn, and which process takes which.

Shuffling and augmentation are the loader's business, but they draw from somewhere. Before each
epoch the global generators of torch, numpy and `random` are seeded by a number made from the seed
and the epoch, so that an epoch's order does not depend on what came before it: training can be
taken up at any epoch. A loader with a generator of its own keeps its course; the generator's state
is saved with the checkpoint instead, and the epoch's number covers it.

Several processes share the batches: of every P batches in a row each process takes one, so that
P processes with batches of b samples learn from what one process with batches of P·b would. Where
the batches do not come out even, the last round is filled up with the first batches again, as
accelerate does.

Left out: a loader that reads only its own process's share. Here each process reads all batches and
trains on its own, which costs reading. Also worker processes that live on from epoch to epoch
(`persistent_workers=True`): what they draw depends on their past, and a resumed training differs.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DistributedSampler

from burnish.errors import InvalidInput
from burnish.goal import Call, Task
from burnish.train._evaluate import Watch


class Batches:
    """The train data of a task, epoch by epoch.

    Args:
        seed: of order, augmentation and whatever the model draws.
        rank, num_processes: this process, and how many share the batches.

    Raises:
        InvalidInput: no train data, or none in it; a loader that shares its samples out itself.
    """

    def __init__(self, task: Task, seed: int, rank: int = 0, num_processes: int = 1) -> None:
        self._task = task
        self._data = task.data("train")
        self._seed = seed
        self._rank = rank
        self._num_processes = num_processes
        sampler = getattr(self._data, "sampler", None)
        if num_processes > 1 and isinstance(sampler, DistributedSampler):
            raise InvalidInput(
                "the train data has a DistributedSampler, and fit() shares the batches out among "
                "the processes itself: give the loader without it"
            )
        self.num_batches = self._count()

    @property
    def per_process(self) -> int:
        """Batches of one epoch that this process trains on."""
        return -(-self.num_batches // self._num_processes)

    def begin(self, epoch: int) -> int:
        """Seed the global generators for an epoch; the seed that was drawn for it."""
        hasher = hashlib.blake2b(f"{self._seed}:{epoch}".encode(), digest_size=8)
        for state in self.generators():
            hasher.update(state.numpy().tobytes())
        draw = int.from_bytes(hasher.digest(), "big") >> 1  # torch takes 63 bits
        torch.manual_seed(draw)
        np.random.seed(draw % 2**32)
        random.seed(draw)
        for owner in self._owners():
            if hasattr(owner, "set_epoch"):
                owner.set_epoch(epoch)
        return draw

    def epoch(self, title: str, watch: Watch | None) -> Iterator[tuple[int, Call]]:
        """This process's batches of one epoch, each with its number among all.

        Raises:
            InvalidInput: more or fewer batches than there were when they were counted.
        """
        first: list[Any] = []
        count = 0
        for batch in self._data if watch is None else watch(self._data, title):
            if count == self.num_batches:
                raise InvalidInput(f"the train data gave more than {self._counted()}")
            if len(first) < self._num_processes - 1:
                first.append(batch)
            if count % self._num_processes == self._rank:
                yield count, self._task.call(batch)
            count += 1
        if count < self.num_batches:
            raise InvalidInput(f"the train data gave {count} batches, not {self._counted()}")
        for index in range(count, self.per_process * self._num_processes):
            if index % self._num_processes == self._rank:
                yield index, self._task.call(first[(index - count) % len(first)])

    def first(self) -> Call:
        """One batch, to try things on; the data's own generators are put back afterwards."""
        states = self.generators()
        batch = next(iter(self._data), None)
        self.restore(states)
        if batch is None:
            raise InvalidInput("the train data is empty: it gave no batch")
        return self._task.call(batch)

    def generators(self) -> list[torch.Tensor]:
        """The states of the data's own generators."""
        return [generator.get_state() for generator in self._generators()]

    def restore(self, states: list[torch.Tensor]) -> None:
        """Put the data's own generators where they were."""
        for generator, state in zip(self._generators(), states, strict=True):
            generator.set_state(state)

    def _generators(self) -> list[torch.Generator]:
        found = [getattr(owner, "generator", None) for owner in self._owners()]
        return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())

    def _owners(self) -> list[Any]:
        """Who may know of epochs and hold generators: the data, and a loader's sampler."""
        return [self._data, getattr(self._data, "sampler", None)]

    def _counted(self) -> str:
        return (
            f"the {self.num_batches} it has: the schedule needs to know how many there are, so "
            "every pass must give the same number"
        )

    def _count(self) -> int:
        """Batches in one pass, by a pass where the data does not say."""
        try:
            num = len(self._data) if isinstance(self._data, Sized) else None
        except TypeError:  # a DataLoader around a stream has a __len__ that raises
            num = None
        if num is None:
            num = sum(1 for _ in self._data)
        if not num:
            raise InvalidInput("the train data is empty: it gave no batch")
        return num


@contextmanager
def generators_kept(device: torch.device) -> Iterator[None]:
    """The global generators of torch, numpy and `random` are the caller's again afterwards."""
    devices = [device] if device.type == "cuda" else []
    kept = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(kept[0])
            np.random.set_state(kept[1])

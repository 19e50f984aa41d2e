"""Trainings that take turns on the same cores, each in a process of its own.

The turn is asked for and given away in the iterator of the train data, after every stretch of so
many batches. So whatever trains, `fit` or a loop written by hand, knows nothing of it, and all it
does between two stretches' first batches is in its time: forward, backward, step, reading data,
writing checkpoints. Who goes first is drawn anew each round; the first round warms up.

Left out: giving the turn away inside a batch.
"""

from __future__ import annotations

import multiprocessing
import random
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from burnish.bench._interval import median_interval
from burnish.errors import BurnishError
from training.shuffled import Batch, Shuffled

CONFIDENCE = 0.95
WARM_UP = 1  # rounds


class Turns:
    """A process's end: it waits here for its turn and gives it away."""

    def __init__(self, connection: Connection, stretch: int) -> None:
        self.stretch = stretch
        self._connection = connection
        self._since: float | None = None

    def next(self) -> None:
        """End the turn, if there was one, and wait for the next."""
        seconds = None if self._since is None else time.perf_counter() - self._since
        self._connection.send(("waits", seconds))
        self._connection.recv()
        self._since = time.perf_counter()


class InTurns:
    """Train data that gives the turn away before every `turns.stretch` batches.

    A batch counts once the next one is asked for: a look at the first batch is not a step.
    """

    def __init__(self, data: Shuffled, turns: Turns) -> None:
        self._data, self._turns = data, turns
        self._done = 0
        self._begun = -1  # the batch that the turn began with

    def __len__(self) -> int:
        return len(self._data)

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next pass is."""
        self._data.set_epoch(epoch)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._data:
            if self._done % self._turns.stretch == 0 and self._done != self._begun:
                self._turns.next()
                self._begun = self._done
            yield batch
            self._done += 1


@dataclass(frozen=True)
class Ran:
    """The seconds of each stretch after the warm-up, and what the job returned."""

    seconds: tuple[float, ...]
    result: Any


Job = Callable[[Turns], Any]


def take_turns(
    jobs: Mapping[str, Job], stretch: int, seed: int, watch: Callable[[str, int], None]
) -> dict[str, Ran]:
    """Run the jobs by turns until all are done. Each must give away its last turn by `next()`.

    Args:
        jobs: picklable, by name; each gives its turn away after so many batches: `stretch`.
        seed: of the order in each round.
        watch: told a job's name and how many stretches it has done.

    Raises:
        BurnishError: a job raised, or its process died.
    """
    context = multiprocessing.get_context("spawn")
    ends: dict[str, Connection] = {}
    processes: list[BaseProcess] = []
    try:
        for name, job in jobs.items():
            ends[name], theirs = context.Pipe()
            process = context.Process(target=_child, args=(theirs, stretch, job), daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
        return _rounds(ends, random.Random(seed), watch)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _rounds(
    ends: Mapping[str, Connection], order: random.Random, watch: Callable[[str, int], None]
) -> dict[str, Ran]:
    seconds: dict[str, list[float]] = {name: [] for name in ends}
    results: dict[str, Any] = {}
    for name in ends:  # nobody begins before all are ready
        _receive(name, ends[name])
    while waiting := [name for name in ends if name not in results]:
        order.shuffle(waiting)
        for name in waiting:
            ends[name].send("go")
            kind, value = _receive(name, ends[name])
            if kind == "done":
                results[name] = value
            else:
                seconds[name].append(value)
                watch(name, len(seconds[name]))
    return {name: Ran(tuple(seconds[name][WARM_UP:]), results[name]) for name in ends}


def _receive(name: str, end: Connection) -> tuple[str, Any]:
    try:
        kind, value = end.recv()
    except EOFError:
        raise BurnishError(f"{name}: its process died without a word") from None
    if kind == "failed":
        raise BurnishError(f"{name} failed:\n{value}")
    return kind, value


def _child(connection: Connection, stretch: int, job: Job) -> None:
    try:
        message = ("done", job(Turns(connection, stretch)))
    except Exception:
        message = ("failed", traceback.format_exc())
    connection.send(message)


def time_ratio(one: Ran, other: Ran) -> dict[str, float]:
    """Time of one over time of the other: the median of the rounds' ratios, with its interval."""
    ratios = [mine / theirs for mine, theirs in zip(one.seconds, other.seconds, strict=True)]
    value, low, high = median_interval(ratios, CONFIDENCE)
    return {"value": value, "low": low, "high": high, "rounds": len(ratios)}

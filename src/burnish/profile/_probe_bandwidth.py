"""How fast data is read from each level of the memory.

Each thread reads an array of its own over and over, by the maximum of int32: a loop of vector loads
with one instruction to each, without Python's lock. Torch has such a loop and numpy has one, and
the faster is taken, because each can only fall short of the memory. (On one core of a Zen 4, in its
first cache: torch's reads 205 GB/s, numpy's 90, a dot product 155; with ATEN_CPU_CAPABILITY=default
torch's reads 2.) Arrays as large as half of a cache stay in it; one several times as large as the
last cache has to come from memory. Short arrays are read many times in one call (a view whose rows
all lie in one place), because a call costs as much as reading many kilobytes. What is measured is
reading: a model that also writes gets less.

The last of three or more caches, and the second of two, is taken to be shared by all cores, each
other one to be a core's own. A level that cannot be told from the one below it, because a thread's
share of it is no larger, is left out with a note.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from burnish.hardware import Machine
from burnish.profile._probe import Bandwidth

_MEMORY_TIMES_CACHE = 8
_LEAST_FROM_MEMORY, _MOST_FROM_MEMORY = 64 << 20, 512 << 20  # bytes, of all threads together
_SHARE_OF_MEMORY = 1 / 8
_TURN = 0.02  # seconds
_ROUNDS = 9
_STEADY = 1.25  # third quartile over the first
_CALL = 1 << 22  # bytes read in one call


@dataclass(frozen=True)
class Level:
    """A level: what it holds for all threads, and what each thread reads to stay in it."""

    name: str
    bytes: int
    per_thread: int


def levels(machine: Machine, threads: int) -> tuple[tuple[Level, ...], tuple[str, ...]]:
    """The levels to measure, nearest first, and a sentence on each that cannot be."""
    found, notes, inside = [], [], 0
    for index, (name, size) in enumerate(machine.caches.items(), start=1):
        shared = 1 < index == len(machine.caches)
        per_thread = size // 2 // (threads if shared else 1)
        if per_thread <= inside:
            notes.append(
                f"{name} is not measured: each of {threads} threads has a share of {per_thread} "
                f"bytes in it, and the cache before holds {inside}"
            )
            continue
        found.append(Level(name, size if shared else size * threads, per_thread))
        inside = size if not shared else per_thread
    if not machine.caches:
        notes.append("caches are not told on this system: only the memory's bandwidth is measured")
    largest = max((level.bytes for level in found), default=0)
    total = max(_LEAST_FROM_MEMORY, min(_MOST_FROM_MEMORY, _MEMORY_TIMES_CACHE * largest))
    if machine.memory_bytes:
        total = min(total, int(machine.memory_bytes * _SHARE_OF_MEMORY))
    if total <= largest:
        notes.append(
            f"the memory's bandwidth is not measured: an eighth of it ({total} bytes) fits a cache"
        )
    else:
        found.append(Level("memory", machine.memory_bytes or total, total // threads))
    return tuple(found), tuple(notes)


def read_bandwidths(
    machine: Machine, threads: int, told: Callable[[float], None]
) -> tuple[tuple[Bandwidth, ...], tuple[str, ...]]:
    """Measure every level with so many threads; `told` hears the share done.

    Takes about a third of a second a level. Also gives the notes of `levels`.
    """
    wanted, notes = levels(machine, threads)
    rows = []
    for index, level in enumerate(wanted):
        rates = _rates(level.per_thread, threads)
        low, middle, high = np.percentile(rates, (25, 50, 75))
        steady = bool(high <= _STEADY * low)
        rows.append(Bandwidth(level.name, level.bytes, float(middle) / 1e9, steady))
        told((index + 1) / len(wanted))
    return tuple(rows), notes


def _rates(num_bytes: int, threads: int) -> list[float]:
    """Bytes a second of all threads together, in each round."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # in each of ours
    try:
        data = [np.ones(num_bytes // 4, dtype=np.int32) for _ in range(threads)]
        times = max(1, _CALL // num_bytes)
        readers = min(
            ([make(one, times) for one in data] for make in (_torch_reader, _numpy_reader)),
            key=lambda readers: min(_turn(readers, 1) for _ in range(3)),
        )
        calls = max(1, round(_TURN / max(_turn(readers, 1), 1e-6)))
        read = data[0].nbytes * times * calls * threads
        return [read / _turn(readers, calls) for _ in range(_ROUNDS)]
    finally:
        torch.set_num_threads(before)


def _torch_reader(data: np.ndarray[Any, Any], times: int) -> Callable[[], object]:
    view = torch.from_numpy(data).expand(times, -1)
    output = torch.empty(times, dtype=view.dtype)
    return lambda: torch.amax(view, 1, out=output)


def _numpy_reader(data: np.ndarray[Any, Any], times: int) -> Callable[[], object]:
    view = np.broadcast_to(data, (times, len(data)))
    output = np.empty(times, dtype=data.dtype)
    return lambda: np.max(view, axis=1, out=output)


def _turn(readers: Sequence[Callable[[], object]], calls: int) -> float:
    """Seconds until every thread has read its array `calls` times."""
    ready = threading.Barrier(len(readers))
    spans: list[tuple[float, float]] = []

    def run(read: Callable[[], object]) -> None:
        ready.wait()
        start = time.perf_counter()
        for _ in range(calls):
            read()
        spans.append((start, time.perf_counter()))

    workers = [threading.Thread(target=run, args=(read,)) for read in readers]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return max(end for _, end in spans) - min(start for start, _ in spans)

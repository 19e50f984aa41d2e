"""Batch, threads and streams: every combination in one race.

How many samples a call takes, how many threads share one, and how many calls run side by side
decide together how fast an answer comes and how many come in a second; which combination is best
depends on the model, the runtime and the machine, and is found by trying. All of them take turns in
the rounds of a race, so that a busy minute slows all of them down, and two of them are compared
round by round.

Combinations of one number of threads and streams share their processes: a server that is sent
batches of several sizes. The inputs differ by batch, so `make_inputs` makes them. Batches come in
rising order; one whose first run fails (most often for want of memory) bars the larger ones, and
its processes are started again for the smaller.

Threads times streams beyond the usable cores are left out, and said: they would measure the
scheduler. Left out: arrivals. A call here follows the one before at once; where requests come one
by one, filling a batch takes time that is not in these figures.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

import numpy as np

from burnish.bench._energy import find_meter
from burnish.bench._entrant import Array, Clock, Crew, Entrant, Inputs, MadeUp, Process
from burnish.bench._environment import Environment
from burnish.bench._field import Entry, Field, Progress, Terms
from burnish.bench._sweep_result import Sweep, label, point
from burnish.bundle import Artifact
from burnish.errors import Damaged, InvalidInput, RuntimeFailed, Unsupported
from burnish.hardware import Machine

_ENERGY_SECONDS = 0.5  # of runs between two readings; the counters move about once a millisecond
Split = tuple[int, int]  # threads of one stream, streams


def sweep(
    artifact: Artifact,
    make_inputs: Callable[[int], Inputs],
    *,
    batches: Sequence[int] = (1, 2, 4, 8, 16, 32),
    threads: Sequence[int] | None = None,
    streams: Sequence[int] = (1, 2),
    seconds: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    progress: Progress | None = None,
    clock: Clock | None = None,
    timeout: float = 120.0,
) -> Sweep:
    """Time `artifact` in every combination; `Sweep.best` chooses from them.

    `make_inputs(batch)` gives the arrays by name of so many samples. `threads` are those of one
    stream (None: 1, 2, 4 and so on up to the usable cores); `streams` are processes side by side,
    each on cores of its own. `seconds` is the whole race's time beyond loading (None: one second a
    combination); slow ones take longer. `clock` and the rest as in `race`.

    A combination that fails is a point with `failed` set. Raises `InvalidInput` when no combination
    fits the cores, or for inputs the artifact does not take; `MissingExtra` for a runtime that is
    not installed.
    """
    environment, place = Environment.capture(), artifact.folder.resolve()
    machine = environment.machine
    sizes = _numbers("batches", batches)
    splits, notes = _splits(threads, streams, machine)
    inputs = _inputs(make_inputs, sizes, machine.memory_bytes, max(s for _, s in splits))
    entries = _entries(artifact, inputs, splits, clock, timeout)
    whole = float(len(entries)) if seconds is None else seconds
    field = Field(entries)
    try:
        field.run(Terms(whole, confidence, seed, progress))
        joules, energy = _energy(field)
    finally:
        field.close()
    race = field.result(confidence)
    points = []
    for split in splits:
        for batch in sizes:
            name = label(batch, *split)
            runs = sum(map(len, field.runs[name]))
            points.append(point(race, batch, split, runs, joules.get(name), machine.quota))
    return Sweep(
        title=f"{place.parent.name}/{place.name}: {artifact.runtime} {artifact.precision}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        points=tuple(points),
        energy=energy,
        notes=tuple(notes),
        environment=environment,
        race=race,
    )


def _numbers(name: str, values: Sequence[int]) -> list[int]:
    whole = all(isinstance(value, int) and not isinstance(value, bool) for value in values)
    if not values or not whole or min(values) < 1:
        raise InvalidInput(f"{name} is {list(values)}; use whole numbers, 1 or more, at least one")
    return sorted(set(values))


def _splits(
    threads: Sequence[int] | None, streams: Sequence[int], machine: Machine
) -> tuple[list[Split], list[str]]:
    """The combinations that fit the usable cores, and sentences about the rest and the quota."""
    cores = machine.cores
    if threads is None:
        threads = [*(2**n for n in range(cores.bit_length())), cores]
    wanted = [
        (each, side_by_side)
        for side_by_side in _numbers("streams", streams)
        for each in _numbers("threads", threads)
    ]
    fitting = [(t, s) for t, s in wanted if t * s <= cores]
    names = [f"threads={t} with streams={s}" for t, s in wanted if t * s > cores]
    may_use = f"this process may use {cores} core{'s' * (cores > 1)}"
    notes = []
    if machine.quota is not None:
        notes.append(f"a container's quota allows {machine.quota:g} CPUs' worth of time")
        may_use = f"{may_use} ({notes[0]})"
    if not fitting:
        raise InvalidInput(f"nothing to try: {may_use}, and each of {names} needs more")
    if names:
        notes.append(f"left out, because {may_use}: {', '.join(names)}")
    return fitting, notes


def _inputs(
    make_inputs: Callable[[int], Inputs], batches: Sequence[int], memory: int, copies: int
) -> dict[int, Inputs | str]:
    """The inputs of each batch, or why there are none.

    Those that would not fit memory are not made: the system might end us for it instead of telling.
    """
    found: dict[int, Inputs | str] = {}
    held = per_sample = 0.0
    for batch in batches:
        needed = held + (1 + copies) * batch * per_sample
        if memory and needed > memory:
            found[batch] = (
                f"does not fit: its inputs, here and in {copies} process(es), and those of smaller "
                f"batches take {needed / 1e9:.3g} GB; there are {memory / 1e9:.3g} GB of memory"
            )
            continue
        try:
            arrays = make_inputs(batch)
        except MemoryError as error:
            found[batch] = f"does not fit: there is no memory for its inputs ({error})"
            continue
        size = sum(array.nbytes for array in arrays.values())
        held, per_sample = held + size, size / batch
        found[batch] = arrays
    return found


def _entries(
    artifact: Artifact,
    inputs: Mapping[int, Inputs | str],
    splits: Sequence[Split],
    clock: Clock | None,
    timeout: float,
) -> dict[str, Entry]:
    entries = {}
    for threads, streams in splits:
        mine = artifact.with_options(threads=threads)
        shared = _Shared(mine, streams, timeout)
        for batch, arrays in inputs.items():
            start = partial(_start, shared, batch, arrays, clock)
            entries[label(batch, threads, streams)] = Entry(mine, batch, start, streams)
    return entries


def _start(shared: _Shared, batch: int, inputs: Inputs | str, clock: Clock | None) -> Entrant:
    if isinstance(inputs, str):
        raise RuntimeFailed(inputs)
    if clock is not None:
        return MadeUp(shared.artifact, inputs, clock)
    return _Served(shared, batch, inputs)


class _Shared:
    """A crew that serves several batches, the smallest first; loaded for the first of them."""

    def __init__(self, artifact: Artifact, streams: int, timeout: float) -> None:
        self.artifact = artifact
        self._streams = streams
        self._timeout = timeout
        self._crew: Crew | None = None
        self._failed: int | None = None

    def crew(self) -> Crew:
        if self._crew is None:
            self._crew = Crew(self.artifact, self._streams, self._timeout)
        return self._crew

    @contextlib.contextmanager
    def first(self, batch: int) -> Iterator[None]:
        """What a batch does for the first time: where it fails, no larger one is tried."""
        if self._failed is not None and batch > self._failed:
            raise RuntimeFailed(f"not tried: batch {self._failed} failed before it")
        try:
            yield
        except (RuntimeFailed, Damaged):
            self._failed = batch
            raise


class _Served(Process):
    """One batch of a shared crew."""

    def __init__(self, shared: _Shared, batch: int, inputs: Inputs) -> None:
        self._shared = shared
        self._batch = batch
        self._ran = False
        with shared.first(batch):
            super().__init__(shared.crew(), inputs)

    def time(self, runs: int) -> Array:
        if self._ran:
            return super().time(runs)
        with self._shared.first(self._batch):
            seconds = super().time(runs)
        self._ran = True
        return seconds


def _energy(field: Field) -> tuple[dict[str, float], str]:
    """Joules per sample of each that runs, and how they were measured or why not."""
    found: dict[str, float] = {}
    try:
        meter = find_meter()
        for name in field.running:
            entry = field.entries[name]
            runs = math.ceil(_ENERGY_SECONDS / float(np.median(field.medians[name])))
            before = meter.read()
            if field.turn(name, runs) is not None:
                samples = (runs + 1) * entry.batch * entry.streams
                found[name] = meter.joules(before, meter.read()) / samples
    except Unsupported as error:
        return {}, f"not measurable here: {error}"
    return found, (
        f"counters of {meter.names} while it ran back to back; idle power and whatever else the "
        "processor did are in them"
    )

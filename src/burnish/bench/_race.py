"""Artifacts compared by taking turns, on a machine assumed noisy.

Each artifact has a process of its own and all stay loaded. After a warm-up until times are steady,
rounds follow: in each, every artifact has one turn of a few tens of milliseconds, in an order drawn
anew. Another tenant, a clock that drops, a background task slow down neighbours in time alike, so
ratios are taken within a round (`Race.ratio`), and what is left is noise that falls on either side.

The first run of each turn is not counted: it pays for caches the others have emptied, which a model
that serves alone does not. What remains is latency of a warm model called back to
back. Two processes of one file still differ, by up to a percent for models of microseconds: where
their memory lies is drawn at their start, and no interval taken over rounds sees it.

For tests and replays the times themselves can be handed in (`clock`); then no process is started,
and time passes by as much as the clock says, so that a race is the same each time.
Left out: racing until a difference is significant, which would bias the ratio.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from burnish.bench._interval import rounds_needed
from burnish.bench._result import Race, Timing
from burnish.bundle import Artifact, Worker
from burnish.errors import Damaged, InvalidInput, RuntimeFailed

Inputs = Mapping[str, np.ndarray[Any, Any]]
Clock = Callable[[Artifact, Inputs, int], np.ndarray[Any, Any]]
Progress = Callable[[float], None]

_TURN = 0.03  # seconds
_FEWEST_ROUNDS = 8
_MOST_ROUNDS = 500
_MOST_RUNS = 2000  # in a turn
_WARMUP_SHARE = 0.25
_STEADY_BLOCKS = 3
_STEADY_SPREAD = 1.05
# OpenMP's threads under torch go on spinning after a run (measured: 7 ms of CPU, none later); the
# next in turn must not pay for it. The other runtimes' threads rest at once.
_SPINS_ON = {"eager": 0.01}  # seconds


class _Entrant(Protocol):
    """An artifact that can be timed."""

    load_seconds: float

    def time(self, runs: int) -> np.ndarray[Any, Any]:
        """Seconds of each of `runs` runs. Raises `RuntimeFailed`."""

    def memory_bytes(self) -> int:
        """Peak so far."""

    def close(self) -> None:
        """Give everything back."""


class _Process:
    def __init__(self, artifact: Artifact, inputs: Inputs, timeout: float) -> None:
        self._worker = Worker(artifact, timeout=timeout)
        self._inputs = inputs
        self.load_seconds = self._worker.load_seconds

    def time(self, runs: int) -> np.ndarray[Any, Any]:
        seconds = self._worker.time(self._inputs, repeats=runs)
        time.sleep(_SPINS_ON.get(self._worker.artifact.runtime, 0.0))
        return seconds

    def memory_bytes(self) -> int:
        return self._worker.memory_bytes()

    def close(self) -> None:
        self._worker.close()


class _MadeUp:
    load_seconds = 0.0

    def __init__(self, artifact: Artifact, inputs: Inputs, clock: Clock) -> None:
        self._artifact = artifact
        self._inputs = inputs
        self._clock = clock
        self.elapsed = 0.0

    def time(self, runs: int) -> np.ndarray[Any, Any]:
        seconds = np.asarray(self._clock(self._artifact, self._inputs, runs), dtype=np.float64)
        if seconds.shape != (runs,) or not (seconds > 0).all():
            raise InvalidInput(
                f"the clock gave {seconds!r} where {runs} times above 0 are expected"
            )
        self.elapsed += float(seconds.sum())
        return seconds

    def memory_bytes(self) -> int:
        return 0

    def close(self) -> None:
        pass


class _Runner:
    """The field: who is still running, what each has run, how much time has passed."""

    def __init__(
        self, artifacts: Mapping[str, Artifact], inputs: Inputs, clock: Clock | None, timeout: float
    ) -> None:
        self.artifacts = artifacts
        self.failed: dict[str, str] = {}
        self.medians: dict[str, list[float]] = {label: [] for label in artifacts}
        self.runs: dict[str, list[np.ndarray[Any, Any]]] = {label: [] for label in artifacts}
        self.memory: dict[str, int] = {}
        self.entrants: dict[str, _Entrant] = {}
        self._clock = clock
        for label, artifact in artifacts.items():
            try:
                self.entrants[label] = (
                    _Process(artifact, inputs, timeout)
                    if clock is None
                    else _MadeUp(artifact, inputs, clock)
                )
            except (RuntimeFailed, Damaged) as error:
                self.failed[label] = str(error)
            except BaseException:
                self.close()
                raise
        self._start = time.monotonic()

    @property
    def running(self) -> list[str]:
        return [label for label in self.entrants if label not in self.failed]

    def elapsed(self) -> float:
        if self._clock is None:
            return time.monotonic() - self._start
        return sum(item.elapsed for item in self.entrants.values() if isinstance(item, _MadeUp))

    def turn(self, label: str, runs: int) -> np.ndarray[Any, Any] | None:
        """Seconds of `runs` runs after one that is not counted; None once the artifact failed."""
        try:
            return self.entrants[label].time(runs + 1)[1:]
        except RuntimeFailed as error:
            self.failed[label] = str(error)
            self.entrants[label].close()
            return None

    def close(self) -> None:
        for label, entrant in self.entrants.items():
            if label not in self.failed:
                try:
                    self.memory[label] = entrant.memory_bytes()
                except RuntimeFailed as error:
                    self.failed[label] = str(error)
            entrant.close()


def race(
    artifacts: Mapping[str, Artifact],
    inputs: Inputs,
    *,
    seconds: float = 6.0,
    confidence: float = 0.95,
    seed: int = 0,
    batch: int = 1,
    progress: Progress | None = None,
    clock: Clock | None = None,
    timeout: float = 120.0,
) -> Race:
    """Race `artifacts` on the same `inputs` (arrays by name, holding `batch` samples).

    Takes about `seconds` beyond loading, or as long as the fewest rounds take (8 at the default
    confidence). `progress` is told the share done, 0 to 1. `clock(artifact, inputs, runs)` replaces
    all timing. `timeout` is the longest silence before an artifact counts as hung.

    An artifact that fails (crashes, hangs, is refused or damaged) is a `Timing` with `failed` set;
    the race goes on without it. Raises `InvalidInput` for inputs that do not fit an artifact and
    `MissingExtra` for a runtime that is not installed.
    """
    if not artifacts:
        raise InvalidInput("a race needs at least one artifact")
    if not (seconds > 0 and 0.5 <= confidence < 1 and batch >= 1):
        raise InvalidInput(
            f"seconds={seconds}, confidence={confidence}, batch={batch}: use seconds above 0, a "
            "confidence from 0.5 to below 1, and a batch of 1 or more"
        )
    field = _Runner(artifacts, inputs, clock, timeout)
    try:
        _run(field, seconds, max(_FEWEST_ROUNDS, rounds_needed(confidence)), seed, progress)
    finally:
        field.close()
    timings = tuple(_timing(field, label, batch) for label in artifacts)
    medians = {label: tuple(values) for label, values in field.medians.items()}
    return Race(timings, medians, confidence)


def _run(field: _Runner, seconds: float, fewest: int, seed: int, progress: Progress | None) -> None:
    allowed = seconds * _WARMUP_SHARE / len(field.artifacts)
    lengths = {label: _warm_up(field, label, allowed) for label in field.running}
    random = np.random.default_rng(seed)
    for done in range(_MOST_ROUNDS):
        if not field.running or (done >= fewest and field.elapsed() >= seconds):
            break
        order = field.running
        for index in random.permutation(len(order)):
            label = order[index]
            times = field.turn(label, lengths[label])
            if times is not None:
                field.medians[label].append(float(np.median(times)))
                field.runs[label].append(times)
        if progress is not None:
            progress(min((done + 1) / fewest, field.elapsed() / seconds, 1.0))
    if progress is not None:
        progress(1.0)


def _warm_up(field: _Runner, label: str, allowed: float) -> int:
    """Run until three blocks in a row agree within 5 %, or `allowed` seconds; runs for one turn."""
    start = field.elapsed()
    length, blocks = 1, list[float]()
    while label in field.running:
        times = field.turn(label, length)
        if times is None:
            break
        median = float(np.median(times))
        length = max(1, min(_MOST_RUNS, math.ceil(_TURN / median)))
        blocks.append(median)
        if _steady(blocks) or field.elapsed() - start >= allowed:
            break
    return length


def _steady(blocks: Sequence[float]) -> bool:
    last = blocks[-_STEADY_BLOCKS:]
    return len(last) == _STEADY_BLOCKS and max(last) <= _STEADY_SPREAD * min(last)


def _timing(field: _Runner, label: str, batch: int) -> Timing:
    artifact, failed = field.artifacts[label], field.failed.get(label)
    p50 = p90 = p99 = mean = math.nan
    if failed is None:
        times = np.concatenate(field.runs[label])
        p50, p90, p99 = (float(value) for value in np.percentile(times, (50, 90, 99)))
        mean = float(times.mean())
    entrant = field.entrants.get(label)
    return Timing(
        label=label,
        p50=p50,
        p90=p90,
        p99=p99,
        mean=mean,
        throughput=batch / mean,
        load_seconds=entrant.load_seconds if entrant is not None else math.nan,
        memory_bytes=field.memory.get(label, 0),
        size_bytes=artifact.size_bytes() if failed is None else 0,
        rounds=len(field.medians[label]),
        failed=failed,
        target=_target(artifact, batch),
    )


def _target(artifact: Artifact, batch: int) -> str:
    options = artifact.options
    threads = "all" if options.threads is None else options.threads
    return (
        f"{artifact.runtime} on {options.device}, threads={threads}, "
        f"execution={options.execution}, batch={batch}"
    )

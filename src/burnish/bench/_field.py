"""Rounds of turns: the one timer under races and sweeps.

Everybody warms up until times are steady; then rounds follow, in each of which every entrant has
one turn of a few tens of milliseconds, in an order drawn anew. One that fails drops out and the
others go on.

For made-up times time passes by as much as they say, so that a race is the same each time.
Left out: running until a difference is significant, which would bias the ratio.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from burnish.bench._entrant import Array, Entrant, MadeUp
from burnish.bench._interval import rounds_needed
from burnish.bench._result import Race, Timing
from burnish.bundle import Artifact
from burnish.errors import Damaged, InvalidInput, RuntimeFailed

Progress = Callable[[float], None]

_TURN = 0.03  # seconds
_FEWEST_ROUNDS = 8
_MOST_ROUNDS = 500
_MOST_RUNS = 2000  # in a turn
_WARMUP_SHARE = 0.25
_STEADY_BLOCKS = 3
_STEADY_SPREAD = 1.05


@dataclass(frozen=True)
class Entry:
    """Who wants to race: `start` loads it; a run of each of `streams` takes `batch` samples."""

    artifact: Artifact
    batch: int
    start: Callable[[], Entrant]
    streams: int = 1


@dataclass(frozen=True)
class Terms:
    """How long, at which confidence, from which seed. Raises `InvalidInput` for nonsense."""

    seconds: float
    confidence: float
    seed: int
    progress: Progress | None

    def __post_init__(self) -> None:
        if not (self.seconds > 0 and 0.5 <= self.confidence < 1):
            raise InvalidInput(
                f"seconds={self.seconds}, confidence={self.confidence}: use seconds above 0 and a "
                "confidence from 0.5 to below 1"
            )

    def say(self, share: float) -> None:
        """Tell the share done, 0 to 1."""
        if self.progress is not None:
            self.progress(share)


class Field:
    """The field: who is still running, what each has run, how much time has passed."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self.entries = entries
        self.failed: dict[str, str] = {}
        self.medians: dict[str, list[float]] = {label: [] for label in entries}
        self.runs: dict[str, list[Array]] = {label: [] for label in entries}
        self.entrants: dict[str, Entrant] = {}
        self._memory: dict[str, int] = {}
        for label, entry in entries.items():
            try:
                self.entrants[label] = entry.start()
            except (RuntimeFailed, Damaged) as error:
                self.failed[label] = str(error)
            except BaseException:
                self.close()
                raise
        self._start = time.monotonic()

    @property
    def running(self) -> list[str]:
        """Labels of those that have not failed."""
        return [label for label in self.entrants if label not in self.failed]

    def elapsed(self) -> float:
        """Seconds since all were loaded."""
        made_up = [item.elapsed for item in self.entrants.values() if isinstance(item, MadeUp)]
        return sum(made_up) if made_up else time.monotonic() - self._start

    def turn(self, label: str, runs: int) -> Array | None:
        """Seconds of `runs` runs after one that is not counted; None once the artifact failed."""
        try:
            return self.entrants[label].time(runs)
        except RuntimeFailed as error:
            self.failed[label] = str(error)
            self.entrants[label].close()
            return None

    def run(self, terms: Terms) -> None:
        """Warm up, then rounds for the time there is, or as many as an interval needs."""
        fewest = max(_FEWEST_ROUNDS, rounds_needed(terms.confidence))
        allowed = terms.seconds * _WARMUP_SHARE / len(self.entries)
        lengths = {label: self._warm_up(label, allowed) for label in self.running}
        random = np.random.default_rng(terms.seed)
        for done in range(_MOST_ROUNDS):
            if not self.running or (done >= fewest and self.elapsed() >= terms.seconds):
                break
            order = self.running
            for index in random.permutation(len(order)):
                label = order[index]
                times = self.turn(label, lengths[label])
                if times is not None:
                    self.medians[label].append(float(np.median(times)))
                    self.runs[label].append(times)
            terms.say(min((done + 1) / fewest, self.elapsed() / terms.seconds, 1.0))
        terms.say(1.0)

    def _warm_up(self, label: str, allowed: float) -> int:
        """Run until three blocks in a row agree within 5 %, or `allowed` seconds; runs a turn."""
        start = self.elapsed()
        length, blocks = 1, list[float]()
        while label in self.running:
            times = self.turn(label, length)
            if times is None:
                break
            median = float(np.median(times))
            length = max(1, min(_MOST_RUNS, math.ceil(_TURN / median)))
            blocks.append(median)
            if _steady(blocks) or self.elapsed() - start >= allowed:
                break
        return length

    def close(self) -> None:
        """Ask each for its memory, then end them all."""
        for label in self.running:
            try:
                self._memory[label] = self.entrants[label].memory_bytes()
            except RuntimeFailed as error:
                self.failed[label] = str(error)
        for entrant in self.entrants.values():
            entrant.close()

    def result(self, confidence: float) -> Race:
        """What was found, once the field is closed."""
        timings = tuple(self._timing(label) for label in self.entries)
        medians = {label: tuple(values) for label, values in self.medians.items()}
        return Race(timings, medians, confidence)

    def _timing(self, label: str) -> Timing:
        entry, failed = self.entries[label], self.failed.get(label)
        p50 = p90 = p99 = mean = math.nan
        if failed is None:
            times = np.concatenate(self.runs[label])
            p50, p90, p99 = (float(value) for value in np.percentile(times, (50, 90, 99)))
            mean = float(times.mean())
        entrant = self.entrants.get(label)
        return Timing(
            label=label,
            p50=p50,
            p90=p90,
            p99=p99,
            mean=mean,
            throughput=entry.batch * entry.streams / mean,
            load_seconds=entrant.load_seconds if entrant is not None else math.nan,
            memory_bytes=self._memory.get(label, 0),
            size_bytes=entry.artifact.size_bytes() if failed is None else 0,
            rounds=len(self.medians[label]),
            failed=failed,
            target=_target(entry),
        )


def _steady(blocks: Sequence[float]) -> bool:
    last = blocks[-_STEADY_BLOCKS:]
    return len(last) == _STEADY_BLOCKS and max(last) <= _STEADY_SPREAD * min(last)


def _target(entry: Entry) -> str:
    options = entry.artifact.options
    threads = "all" if options.threads is None else options.threads
    layout = "" if options.layout == "contiguous" else f"layout={options.layout}, "
    streams = "" if entry.streams == 1 else f", streams={entry.streams}"
    return (
        f"{entry.artifact.runtime} on {options.device}, threads={threads}, "
        f"execution={options.execution}, {layout}batch={entry.batch}{streams}"
    )

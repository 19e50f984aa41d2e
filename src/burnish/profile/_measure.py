"""A model timed in every runtime, whole and operator by operator.

Each runtime loads its artifact once, in a process of its own. All take turns in one race, which
gives the latencies; then each is asked for its own counters in the very process that was raced, in
turns with runs without them, so that the sum of the operators is compared with a whole of the same
moment.

A figure is marked unreliable where a call takes hardly longer than calling (the counters explain
less than half of a call of some microseconds), where the clock cannot resolve it, or where the
rounds of the race disagree by more than a quarter.

Left out: scaling counters to make them add up to the whole.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from burnish.bench import Race
from burnish.errors import MissingExtra, RuntimeFailed, Unsupported
from burnish.graph import Traced
from burnish.profile._figures import time_text
from burnish.profile._probe_workers import Workers
from burnish.profile._run import Latency, Rest, Run
from burnish.runtimes import Artifact, attribute, export

Arrays = Mapping[str, np.ndarray[Any, Any]]
Progress = Callable[[str], None]

_COUNTING = 0.4  # seconds, and as much again for the runs without counters
_FEWEST_COUNTS, _MOST_COUNTS = 6, 400
_RESOLUTION = 1e-6
_MOSTLY_CALL = 100e-6  # seconds; below, and with less than half of it in operators
_SPREAD = 1.25
_ADDS_UP = 0.1
_MILLI = 1e3


@dataclass(frozen=True)
class Measured:
    """A runtime's run with its times per operator, in seconds, and which operator took in which."""

    run: Run
    seconds: Mapping[str, float] = field(default_factory=dict)
    fused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Terms:
    """What is measured: the runtimes, threads in an operator, seconds of racing."""

    runtimes: Sequence[str]
    threads: int
    seconds: float


def measure(
    traced: Traced, names: Sequence[str], inputs: Arrays, terms: Terms, progress: Progress
) -> tuple[Measured, ...]:
    """Time a traced model on `inputs` in every runtime of `terms`, in their order.

    `names` are the operators that counters are given to. A runtime that is missing, refuses the
    model or fails is a run that says so; the others go on.
    """
    failed: dict[str, str] = {}
    done: dict[str, Measured] = {}
    with (
        tempfile.TemporaryDirectory(prefix="burnish-") as folder,
        Workers(_artifacts(traced, Path(folder), terms, failed, progress), inputs) as workers,
    ):
        progress("racing the runtimes")
        found = workers.race(workers.labels, inputs, terms.seconds, lambda share: None)
        failed |= workers.reasons
        for timing in found.timings:
            name = timing.label
            if timing.failed is not None:
                failed[name] = timing.failed
                continue
            progress(f"counting operators in {name}")
            done[name] = _counted(name, workers.worker(name), found, names, inputs)
    return tuple(
        done[name] if name in done else Measured(Run(name, failed=failed[name]))
        for name in terms.runtimes
    )


def _artifacts(
    traced: Traced, folder: Path, terms: Terms, failed: dict[str, str], progress: Progress
) -> Iterator[tuple[str, Artifact]]:
    """An artifact for each runtime that takes the model; why the others do not goes to `failed`."""
    for name in terms.runtimes:
        progress(f"exporting for {name}")
        try:
            artifact = export(traced, name, folder / name)
        except (Unsupported, MissingExtra) as error:
            failed[name] = str(error)
        else:
            yield name, artifact.with_options(threads=terms.threads)
    progress("loading the runtimes")


def _counted(name: str, worker: Any, found: Race, names: Sequence[str], inputs: Arrays) -> Measured:
    value, low, high = found.latency(name)
    common = {
        "name": name,
        "precision": worker.artifact.precision,
        "latency": Latency(value * _MILLI, low * _MILLI, high * _MILLI),
        "memory_bytes": worker.memory_bytes() or None,
    }
    repeats = max(_FEWEST_COUNTS, min(_MOST_COUNTS, math.ceil(_COUNTING / value)))
    try:
        counts = worker.count(inputs, repeats=repeats)
    except RuntimeFailed as error:
        notes = [_doubt(value, low, high, None), f"no times per operator: {error}"]
        told = ". ".join(note for note in notes if note is not None)
        return Measured(Run(**common, reliable=notes[0] is None, note=told))
    given = attribute(counts.times, names)
    attributed = math.fsum(given.seconds.values())
    counted = attributed + math.fsum(item.seconds for item in given.rest)
    doubt = _doubt(value, low, high, counted)
    run = Run(
        **common,
        attributed_ms=attributed * _MILLI,
        counted_ms=counted * _MILLI,
        share=attributed / counts.seconds,
        reliable=doubt is None,
        note=doubt or _caution(counted / counts.seconds),
        rest=tuple(Rest(item.name, item.kind, item.seconds * _MILLI) for item in given.rest),
    )
    return Measured(run, given.seconds, given.fused)


def _caution(share: float) -> str | None:
    """What to know where the counters do not add up to the whole, or None."""
    if abs(share - 1) <= _ADDS_UP:
        return None
    return f"the counters add up to {share:.0%} of a call: read them as shares, not as times"


def _doubt(value: float, low: float, high: float, counted: float | None) -> str | None:
    """Why a latency is not to be believed, or None."""
    if value < _RESOLUTION or (counted is not None and counted < _RESOLUTION):
        return (
            f"the model runs in under a microsecond: the {time_text(value)} of a call are nearly "
            "all the call itself. Time a larger batch"
        )
    if counted is not None and value < _MOSTLY_CALL and counted < value / 2:
        return (
            f"of the {time_text(value)} of a call the operators take {time_text(counted)}: what "
            "was timed is mostly the call. Time a larger batch"
        )
    if high / low > _SPREAD:
        return (
            f"rounds disagree ({time_text(low)} to {time_text(high)}): the machine was busy. Close "
            "what else runs and measure again"
        )
    return None

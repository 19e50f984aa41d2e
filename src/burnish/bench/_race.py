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
"""

from __future__ import annotations

from collections.abc import Mapping

from burnish.bench._entrant import Clock, Crew, Entrant, Inputs, Loaned, MadeUp, Process
from burnish.bench._field import Entry, Field, Progress, Terms
from burnish.bench._result import Race
from burnish.bundle import Artifact, Worker
from burnish.errors import InvalidInput


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
    workers: Mapping[str, Worker] | None = None,
    timeout: float = 120.0,
) -> Race:
    """Race `artifacts` on the same `inputs` (arrays by name, holding `batch` samples).

    Takes about `seconds` beyond loading, or as long as the fewest rounds take (8 at the default
    confidence). `progress` is told the share done, 0 to 1. `clock(artifact, inputs, runs)` replaces
    all timing. `workers` are those of artifacts that are loaded already, by label; they stay with
    the caller. `timeout` is the longest silence before an artifact counts as hung.

    An artifact that fails (crashes, hangs, is refused or damaged) is a `Timing` with `failed` set;
    the race goes on without it. Raises `InvalidInput` for inputs that do not fit an artifact and
    `MissingExtra` for a runtime that is not installed.
    """
    if not artifacts:
        raise InvalidInput("a race needs at least one artifact")
    if batch < 1:
        raise InvalidInput(f"batch={batch}: use 1 or more")
    terms = Terms(seconds, confidence, seed, progress)

    loaned = workers or {}

    def entry(label: str, artifact: Artifact) -> Entry:
        def start() -> Entrant:
            if clock is not None:
                return MadeUp(artifact, inputs, clock)
            if label in loaned:
                return Loaned(loaned[label], inputs)
            return Process(Crew(artifact, 1, timeout), inputs)

        return Entry(artifact, batch, start)

    field = Field({label: entry(label, artifact) for label, artifact in artifacts.items()})
    try:
        field.run(terms)
    finally:
        field.close()
    return field.result(confidence)

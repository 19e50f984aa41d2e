"""How a latency table comes by its seconds: operators side by side, and whole models.

Operators are timed by the runtime's own counters, in graphs of a few dozen, in the same worker
process that serves a model. They are dealt out to the graphs at random (by the seed), so that a
machine that slows down for a while disturbs no family alone (`_branches` has how they are read).

A whole model is timed with and without counters in turns (`Worker.count`), which gives its latency
and what each operator takes where it stands, both from one process at one time.

For tests and replays another `Clock` can be handed in; then no process is started.
"""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from burnish.graph import Traced
from burnish.profile._branches import branch_seconds, call_names
from burnish.profile._latency_graph import inputs_of, side_by_side
from burnish.profile._shape import OpShape
from burnish.runtimes import attribute, export, load

Progress = Callable[[float], None]
_MOST_SHAPES = 60  # in a graph
_MOST_BYTES = 48_000_000
_FEWEST_RUNS, _MOST_RUNS = 12, 400  # of a whole model


@dataclass(frozen=True)
class Observed:
    """A whole model: its seconds, and those of its operators in place, by name (0: fused away)."""

    seconds: float
    operators: Mapping[str, float]


class Clock(Protocol):
    """What a table is built from."""

    def shapes(self, shapes: Sequence[OpShape], progress: Progress) -> list[float]:
        """Seconds of each operator alone. `progress` takes the share that is done."""

    def model(self, model: Traced) -> Observed:
        """Seconds of a whole model."""


@dataclass(frozen=True)
class RuntimeClock:
    """A runtime on this machine; `seconds` go to each whole model."""

    runtime: str
    precision: str
    threads: int | None
    batch: int
    seconds: float
    seed: int

    def shapes(self, shapes: Sequence[OpShape], progress: Progress) -> list[float]:
        """See `Clock`."""
        found = [math.nan] * len(shapes)
        order = list(range(len(shapes)))
        random.Random(self.seed).shuffle(order)
        done = 0
        for dealt in _dealt(order, shapes):
            group = [shapes[index] for index in dealt]
            for index, seconds in zip(dealt, self._group(group), strict=True):
                found[index] = seconds
            done += len(dealt)
            progress(done / len(shapes))
        return found

    def model(self, model: Traced) -> Observed:
        """See `Clock`."""
        inputs = inputs_of(model, self.batch)
        with self._loaded(model) as worker:
            first = worker.count(inputs, repeats=_FEWEST_RUNS)
            # Every counted run stands beside one without counters.
            wanted = round(self.seconds / (first.seconds + first.counted_seconds))
            repeats = min(max(wanted, _FEWEST_RUNS), _MOST_RUNS)
            counts = worker.count(inputs, repeats=repeats)
        names = call_names(model)
        given = attribute(counts.times, names).seconds
        return Observed(counts.seconds, {name: given.get(name, 0.0) for name in names})

    def _group(self, shapes: Sequence[OpShape]) -> list[float]:
        model = side_by_side(shapes, self.batch, self.seed)
        with self._loaded(model) as worker:
            return branch_seconds(worker, model, len(shapes), self.batch)

    @contextmanager
    def _loaded(self, model: Traced) -> Iterator[Any]:
        with tempfile.TemporaryDirectory(prefix="burnish-") as folder:
            artifact = export(model, self.runtime, Path(folder), precision=self.precision)
            with load(artifact.with_options(threads=self.threads)) as worker:
                yield worker


def _dealt(order: Sequence[int], shapes: Sequence[OpShape]) -> Iterator[list[int]]:
    """The order cut into groups that are not too many and not too large."""
    group: list[int] = []
    held = 0
    for index in order:
        size = 4 * sum(
            math.prod(item)
            for side in (shapes[index].inputs, shapes[index].weights, shapes[index].outputs)
            for item in side
        )
        if group and (len(group) == _MOST_SHAPES or held + size > _MOST_BYTES):
            yield group
            group, held = [], 0
        group.append(index)
        held += size
    if group:
        yield group

"""What an operator costs before it computes anything.

Two chains of linear layers of 16 by 16, one with 32 more of them than the other, take turns; the
difference of their times is 32 dispatches, and whatever a call costs as a whole cancels out. An
operator of 256 products computes for some nanoseconds. Linear layers, because runtimes fuse chains
of anything simpler into one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from burnish.errors import BurnishError
from burnish.profile._probe import Dispatch
from burnish.profile._probe_graphs import RUNTIMES, matrix, matrix_chain
from burnish.profile._probe_workers import Workers
from burnish.runtimes import Artifact, available, export

_WIDTH = 16
_SHORT, _LONG = 2, 34
_STEADY = 1.5  # third quartile over the first


def measure_dispatch(
    folder: Path, threads: int, seconds: float, told: Callable[[float], None]
) -> tuple[tuple[Dispatch, ...], tuple[str, ...]]:
    """A row for each runtime that runs the chains, and a sentence on each that does not."""
    notes: list[str] = []
    with Workers(_artifacts(folder, threads, notes)) as workers:
        told(0.6)
        found = workers.race(
            workers.labels, matrix(2, _WIDTH), seconds, lambda share: told(0.6 + 0.4 * share)
        )
        failed = workers.reasons | {t.label: t.failed for t in found.timings if t.failed}
    rows = []
    for runtime in RUNTIMES:
        labels = [f"{runtime} {depth}" for depth in (_SHORT, _LONG)]
        reasons = [failed[label] for label in labels if label in failed]
        if reasons:
            notes.append(f"dispatch of {runtime} is not measured: {reasons[0]}")
        elif all(label in found.medians for label in labels):
            rows.append(_slope(runtime, *(found.medians[label] for label in labels)))
    return tuple(rows), tuple(notes)


def _slope(runtime: str, short: Sequence[float], long: Sequence[float]) -> Dispatch:
    slopes = (np.asarray(long) - np.asarray(short)) / (_LONG - _SHORT)
    low, middle, high = np.percentile(slopes, (25, 50, 75))
    steady = bool(low > 0 and high <= _STEADY * low)
    return Dispatch(runtime, max(0.0, float(middle)), steady)


def _artifacts(folder: Path, threads: int, notes: list[str]) -> Iterator[tuple[str, Artifact]]:
    graphs = {depth: matrix_chain("float32", _WIDTH, depth) for depth in (_SHORT, _LONG)}
    missing = available()
    for runtime in RUNTIMES:
        try:
            if missing[runtime] is None:
                for depth, graph in graphs.items():
                    artifact = export(graph, runtime, folder / f"{runtime}-{depth}")
                    yield f"{runtime} {depth}", artifact.with_options(threads=threads)
        except BurnishError as error:
            notes.append(f"dispatch of {runtime} is not measured: {error}")

"""Representative operators timed in a runtime: as they are, at half their width, compiled.

A graph of them goes the way a model goes, through export into a worker of its own, and is read by
the runtime's counters there, a few times over; the median counts.

Compiling is tried on eager's terms: the same few operators, eager and compiled, raced whole.

Left out: what a fusion of neighbours would gain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.bench import Ratio
from burnish.errors import BurnishError
from burnish.profile._branches import branch_seconds
from burnish.profile._latency_graph import inputs_of, side_by_side
from burnish.profile._probe_workers import Workers
from burnish.profile._representatives import Representative, halved
from burnish.runtimes import export, load

COUNTED = ("onnxruntime", "openvino")
_COMPILED = 3  # operators: each costs seconds
_RACE = 0.6  # seconds


@dataclass(frozen=True)
class Sample:
    """Seconds of each representative in a runtime, as it is and at half its width."""

    float32: tuple[float, ...]
    half: tuple[float, ...]


@dataclass(frozen=True)
class Compiled:
    """Time compiled over time in eager, and the seconds compiling took; or why there is none."""

    factor: Ratio | None
    seconds: float
    reason: str | None


def sample(
    chosen: Sequence[Representative],
    runtime: str,
    *,
    batch: int,
    threads: int,
    seed: int,
    folder: Path,
) -> Sample:
    """Time the representatives in a runtime. Raises what exporting or running them raises."""
    shapes = [one.shape for one in chosen]
    graph = side_by_side([*shapes, *map(halved, shapes)], batch, seed)
    artifact = export(graph, runtime, folder / f"{runtime} representatives")
    with load(artifact.with_options(threads=threads)) as worker:
        seconds = branch_seconds(worker, graph, 2 * len(shapes), batch)
    return Sample(tuple(seconds[: len(shapes)]), tuple(seconds[len(shapes) :]))


class Compiling:
    """Compiling a few representatives while something else is done; a context manager.

    Exporting is done at once. A worker compiles in the background; `wait` until it has before
    anything is timed. `found` races it against the same operators in eager.
    """

    def __init__(
        self, chosen: Sequence[Representative], *, batch: int, threads: int, seed: int, folder: Path
    ) -> None:
        self._reason = ""
        self._pool = ThreadPoolExecutor(1)
        self._loading: Future[Workers] | None = None
        if not chosen:
            self._reason = "no convolution and no linear layer to try it on"
            return
        graph = side_by_side([one.shape for one in chosen[:_COMPILED]], batch, seed)
        artifacts = {}
        try:
            for runtime in ("eager", "inductor"):
                artifact = export(graph, runtime, folder / f"compiled {runtime}")
                artifacts[runtime] = artifact.with_options(threads=threads)
        except BurnishError as error:
            self._reason = str(error)
            return
        self._inputs: Mapping[str, Any] = inputs_of(graph, batch)
        self._loading = self._pool.submit(Workers, artifacts.items(), self._inputs)

    def wait(self) -> None:
        """Until compiling is over, well or not."""
        if self._loading is not None:
            self._loading.result()

    def found(self) -> Compiled:
        """What it brings, raced now."""
        if self._loading is None:
            return Compiled(None, 0.0, self._reason)
        workers = self._loading.result()
        if "inductor" not in workers.labels:
            return Compiled(None, 0.0, workers.reasons["inductor"])
        took = workers.worker("inductor").load_seconds
        race = workers.race(workers.labels, self._inputs, _RACE, lambda share: None)
        try:
            return Compiled(race.ratio("inductor", "eager"), took, None)
        except BurnishError as error:
            return Compiled(None, took, "; ".join(workers.reasons.values()) or str(error))

    def __enter__(self) -> Compiling:
        return self

    def __exit__(self, *_: object) -> None:
        if self._loading is not None:
            self._loading.result().close()
        self._pool.shutdown()

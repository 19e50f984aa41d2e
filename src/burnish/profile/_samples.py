"""Representative operators timed in the runtimes: in float, in int8, at half their width, compiled.

Every graph of them goes the way a model goes, through export into a worker of its own, and is read
by the runtime's counters there, a few times over; the median counts. What the counters give to no
operator of the graph is what enters and leaves it: in int8 that is quantizing the inputs and
dequantizing the results, which inside a network is fused away where the neighbour is int8, too.

Compiling is tried on eager's terms: the same few operators, eager and compiled, raced whole.

Left out: what a fusion of neighbours would gain.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.bench import Ratio
from burnish.errors import BurnishError, RuntimeFailed
from burnish.profile._branches import branch_seconds
from burnish.profile._latency_graph import inputs_of, side_by_side
from burnish.profile._probe_workers import Workers
from burnish.profile._representatives import Representative, halved, in_int8
from burnish.runtimes import Artifact, export

COUNTED = ("onnxruntime", "openvino")
_COMPILED = 3  # operators: each costs seconds
_RACE = 0.6  # seconds


@dataclass(frozen=True)
class Sample:
    """The representatives in one runtime: seconds of each in float, in int8, at half the width.

    `crossing` is what going into and out of int8 costs all of them together. `int8` is None where
    the runtime refused, with the `reason`.
    """

    float32: tuple[float, ...]
    half: tuple[float, ...]
    int8: tuple[float, ...] | None
    crossing: float
    reason: str | None


@dataclass(frozen=True)
class Compiled:
    """Time compiled over time in eager, and the seconds compiling took; or why there is none."""

    factor: Ratio | None
    seconds: float
    reason: str | None


def sample(
    chosen: Sequence[Representative],
    runtimes: Sequence[str],
    *,
    batch: int,
    threads: int,
    seed: int,
    folder: Path,
) -> dict[str, Sample]:
    """Time the representatives in each of `runtimes`; those that fail are not in the result."""
    shapes = [one.shape for one in chosen]
    floats = side_by_side([*shapes, *map(halved, shapes)], batch, seed)
    plain = side_by_side(shapes, batch, seed)
    graphs = {"float32": floats, "int8": in_int8(plain)}
    reasons: dict[str, str] = {}

    def artifacts() -> Iterator[tuple[str, Artifact]]:
        for runtime, (precision, graph) in itertools.product(runtimes, graphs.items()):
            label = f"{runtime} {precision}"
            try:
                artifact = export(graph, runtime, folder / label, precision=precision)
            except BurnishError as error:
                reasons[label] = str(error)
            else:
                yield label, artifact.with_options(threads=threads)

    found: dict[str, tuple[list[float], float]] = {}
    with Workers(artifacts()) as workers:
        reasons |= workers.reasons
        for label in workers.labels:
            graph = graphs[label.split()[1]]
            num = len(graph.outputs)
            try:
                found[label] = branch_seconds(workers.worker(label), graph, num, batch)
            except RuntimeFailed as error:
                reasons[label] = str(error)
    samples = {}
    for runtime in runtimes:
        if f"{runtime} float32" not in found:
            continue
        seconds, _ = found[f"{runtime} float32"]
        in_integers = found.get(f"{runtime} int8")
        samples[runtime] = Sample(
            float32=tuple(seconds[: len(shapes)]),
            half=tuple(seconds[len(shapes) :]),
            int8=None if in_integers is None else tuple(in_integers[0]),
            crossing=0.0 if in_integers is None else in_integers[1],
            reason=reasons.get(f"{runtime} int8"),
        )
    return samples


def compiled(
    chosen: Sequence[Representative], *, batch: int, threads: int, seed: int, folder: Path
) -> Compiled:
    """Race a few representatives in eager against the same compiled by inductor."""
    if not chosen:
        return Compiled(None, 0.0, "no convolution and no linear layer to try it on")
    graph = side_by_side([one.shape for one in chosen[:_COMPILED]], batch, seed)
    artifacts = {}
    try:
        for runtime in ("eager", "inductor"):
            artifact = export(graph, runtime, folder / f"compiled {runtime}")
            artifacts[runtime] = artifact.with_options(threads=threads)
    except BurnishError as error:
        return Compiled(None, 0.0, str(error))
    inputs: Mapping[str, Any] = inputs_of(graph, batch)
    with Workers(artifacts.items()) as workers:
        took = 0.0
        if "inductor" in workers.labels:
            try:
                workers.worker("inductor").prepare(inputs)
                took = workers.worker("inductor").load_seconds
            except RuntimeFailed as error:
                return Compiled(None, 0.0, str(error))
        race = workers.race(workers.labels, inputs, _RACE, lambda share: None)
        reasons = workers.reasons
    try:
        return Compiled(race.ratio("inductor", "eager"), took, None)
    except BurnishError as error:
        return Compiled(None, took, "; ".join(reasons.values()) or str(error))

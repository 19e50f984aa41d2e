"""From races to the measurements a candidate carries.

A latency is never a bare number: it has its interval, the reference it was raced against, and the
ratio to it, which is the part to rely on. Size and peak memory are exact for what they are, so
their intervals are points. `goal` loads torch, so it is imported where a measurement is made: a
race needs none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from burnish.bench._entrant import Clock, Inputs
from burnish.bench._environment import Environment
from burnish.bench._race import race
from burnish.bench._result import Race
from burnish.bundle import Artifact
from burnish.errors import RuntimeFailed

if TYPE_CHECKING:
    from burnish.goal import Measurement

_MEGABYTE = 1e6
_MILLI = 1e3


def measure(
    artifact: Artifact,
    reference: Artifact | None,
    inputs: Inputs,
    *,
    labels: tuple[str, str] = ("candidate", "reference"),
    seconds: float = 6.0,
    confidence: float = 0.95,
    seed: int = 0,
    batch: int = 1,
    clock: Clock | None = None,
) -> tuple[Measurement, ...]:
    """Race `artifact` against `reference` (None: alone) and tell what `measurements` tells.

    Raises `RuntimeFailed` when either fails.
    """
    artifacts = {labels[0]: artifact}
    if reference is not None:
        artifacts[labels[1]] = reference
    result = race(
        artifacts,
        inputs,
        seconds=seconds,
        confidence=confidence,
        seed=seed,
        batch=batch,
        clock=clock,
    )
    against = None if reference is None else labels[1]
    return measurements(result, labels[0], against, environment=Environment.capture())


def measurements(
    result: Race, label: str, reference: str | None, *, environment: Environment
) -> tuple[Measurement, ...]:
    """What a race says of one artifact, as measurements.

    In order: "latency" (ms, with `ratio` = time / reference's time: below 1 is faster),
    "throughput" (samples/s, at the mean), "size" and "memory" (MB of 10^6 bytes), "load" (s).
    Raises `RuntimeFailed` when the artifact or the reference failed.
    """
    from burnish.goal import Measurement

    timing = result.timing(label)
    if timing.failed is not None:
        raise RuntimeFailed(f"{label!r} was not measured, it failed: {timing.failed}")
    value, low, high = result.latency(label)
    ratio = None
    if reference is not None:
        found = result.ratio(label, reference)
        ratio = (found.value, found.low, found.high)

    def point(metric: str, amount: float, unit: str) -> Measurement:
        fingerprint = environment.fingerprint
        return Measurement(metric, amount, unit, amount, amount, 1, timing.target, fingerprint)

    latency = Measurement(
        metric="latency",
        value=value * _MILLI,
        unit="ms",
        low=low * _MILLI,
        high=high * _MILLI,
        n=timing.rounds,
        target=timing.target,
        environment=environment.fingerprint,
        reference=reference,
        ratio=ratio,
    )
    return (
        latency,
        point("throughput", timing.throughput, "samples/s"),
        point("size", timing.size_bytes / _MEGABYTE, "MB"),
        point("memory", timing.memory_bytes / _MEGABYTE, "MB"),
        point("load", timing.load_seconds, "s"),
    )

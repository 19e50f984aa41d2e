"""What a race found: values that can be written down and asked again.

A race keeps the median time of each artifact in each round, because a ratio is taken round by
round: the machine was the same for both, whatever it was doing. Absolute times are told too, and
are only as good as the machine was quiet.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from burnish.bench._interval import median_interval, rounds_needed
from burnish.errors import Damaged, InvalidInput, RuntimeFailed, Unreliable

UNRELIABLE_SPREAD = 1.25
_NUMBERS = ("p50", "p90", "p99", "mean", "throughput", "load_seconds")


@dataclass(frozen=True)
class Timing:
    """One artifact in a race.

    Percentiles and mean in seconds per run over all runs counted; `throughput` in samples per
    second; `memory_bytes` is the peak of its process; `target` says what it ran on. Where `failed`
    tells why it dropped out, the times are NaN.
    """

    label: str
    p50: float
    p90: float
    p99: float
    mean: float
    throughput: float
    load_seconds: float
    memory_bytes: int
    size_bytes: int
    rounds: int
    failed: str | None
    target: str


@dataclass(frozen=True)
class Ratio:
    """time(a) / time(b) with its interval; `unreliable` when high / low is above 1.25."""

    value: float
    low: float
    high: float
    unreliable: bool


@dataclass(frozen=True)
class Race:
    """All artifacts' timings, and the median seconds of each in each round, in order."""

    timings: tuple[Timing, ...]
    medians: Mapping[str, tuple[float, ...]]
    confidence: float

    def timing(self, label: str) -> Timing:
        """The timing called `label`. Raises `InvalidInput` when nothing is."""
        for timing in self.timings:
            if timing.label == label:
                return timing
        known = [timing.label for timing in self.timings]
        raise InvalidInput(f"no artifact {label!r} was in this race; there were {known}")

    def ratio(self, a: str, b: str) -> Ratio:
        """time(a) / time(b): below 1 where `a` is the faster.

        The median over rounds of the ratio in one round, and its distribution-free interval.
        Raises `RuntimeFailed` when one of them failed, `Unreliable` with too few rounds.
        """
        for label in (a, b):
            failed = self.timing(label).failed
            if failed is not None:
                raise RuntimeFailed(f"{label!r} has no ratio, it failed: {failed}")
        logs = np.log(np.asarray(self.medians[a]) / np.asarray(self.medians[b]))
        value, low, high = (math.exp(item) for item in self._interval(logs.tolist()))
        return Ratio(value, low, high, high / low > UNRELIABLE_SPREAD)

    def latency(self, label: str) -> tuple[float, float, float]:
        """Median, low and high seconds per run, over the rounds' medians.

        Raises like `ratio`. The interval is about this machine during this race.
        """
        failed = self.timing(label).failed
        if failed is not None:
            raise RuntimeFailed(f"{label!r} has no latency, it failed: {failed}")
        return self._interval(list(self.medians[label]))

    def _interval(self, values: list[float]) -> tuple[float, float, float]:
        needed = rounds_needed(self.confidence)
        if len(values) < needed:
            raise Unreliable(
                f"{len(values)} rounds cannot give an interval at {self.confidence:g}: "
                f"race for at least {needed} rounds"
            )
        return median_interval(values, self.confidence)

    def to_json(self) -> dict[str, Any]:
        """A plain dict; `Race.from_json` is its inverse. NaN is written as null."""
        timings = []
        for timing in self.timings:
            record = dataclasses.asdict(timing)
            for name in _NUMBERS:
                record[name] = None if math.isnan(record[name]) else record[name]
            timings.append(record)
        return {
            "timings": timings,
            "medians": {label: list(values) for label, values in self.medians.items()},
            "confidence": self.confidence,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Race:
        """Read back what `to_json` wrote. Raises `Damaged` when it is something else."""
        try:
            timings = []
            for item in record["timings"]:
                numbers = {
                    name: math.nan if item[name] is None else item[name] for name in _NUMBERS
                }
                timings.append(Timing(**{**item, **numbers}))
            medians = {label: tuple(values) for label, values in record["medians"].items()}
            return cls(tuple(timings), medians, record["confidence"])
        except (TypeError, KeyError, AttributeError) as error:
            raise Damaged(f"this is no race's record ({error})") from None

"""Where the time of a run goes, by a runtime's own counters: the values.

What the kernels take together and what a whole run takes are figures of one machine at one time
(`_counting` takes them in turns); the rest between them, handing over inputs and outputs and going
from kernel to kernel, is their difference. Nothing is scaled to fit: where counting itself slows
kernels down, their sum is above the whole.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from burnish.bundle._artifact import OpTime
from burnish.bundle._record import Json


@dataclass(frozen=True)
class Counts:
    """A runtime's kernels and the whole they are parts of.

    Attributes:
        times: each kernel's mean seconds per run.
        seconds: of a whole run without counters (the median of those taken in turns).
        counted_seconds: of a whole run with counters on (the median): what counting costs shows.
    """

    times: tuple[OpTime, ...]
    seconds: float
    counted_seconds: float

    @property
    def outside(self) -> float:
        """Seconds of a run that no kernel accounts for; below 0 where counting slows kernels."""
        return self.seconds - math.fsum(item.seconds for item in self.times)

    def to_json(self) -> dict[str, Json]:
        return {
            "times": [dataclasses.astuple(item) for item in self.times],
            "seconds": self.seconds,
            "counted_seconds": self.counted_seconds,
        }

    @classmethod
    def from_json(cls, record: dict[str, Json]) -> Counts:
        times = tuple(
            OpTime(name, kind, seconds, tuple(members), tuple(feeds))
            for name, kind, seconds, members, feeds in record["times"]
        )
        return cls(times, record["seconds"], record["counted_seconds"])


def middle_half(runs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Means over the middle half of the rows by their sum: [runs, kernels] to [kernels].

    A run that something else interrupted is no part of it, and kernels still add up.
    """
    order = np.argsort(runs.sum(axis=1), kind="stable")
    cut = len(order) // 4
    means: np.ndarray[Any, Any] = runs[order[cut : len(order) - cut]].mean(axis=0)
    return means

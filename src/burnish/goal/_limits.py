"""Where the model will run, what it may cost, and what a figure is.

`Target` and `Budget` are the two halves of a constraint: the machine and the limits on it. A
`Measurement` is never a bare number: it carries its interval, how many samples or rounds it rests
on, where it was taken and, for a time, what it was raced against.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, SupportsFloat

from burnish.errors import InvalidInput

OBJECTIVES = ("latency", "size", "memory")
LIMITS = ("latency_ms", "size_mb", "memory_mb")
DEVICES = ("cpu", "cuda", "gpu", "npu")


@dataclass(frozen=True)
class Target:
    """The device, runtimes, threads and batch an artifact is chosen for.

    Args:
        device: "cpu"; "cuda", "gpu" and "npu" are handed to the runtimes that list such a device
            and have not been tried by us.
        runtimes: names of the runtimes allowed; empty means every one that is installed, but for
            "inductor", which compiles for up to minutes and is tried only where it is named.
        threads: threads of the runtime; None sweeps 1 and all usable cores and takes the faster.
        batch: samples a call when timing.
    """

    device: str = "cpu"
    runtimes: tuple[str, ...] = ()
    threads: int | None = None
    batch: int = 1

    def __post_init__(self) -> None:
        named: Any = self.runtimes
        runtimes = (named,) if isinstance(named, str) else tuple(named)
        object.__setattr__(self, "runtimes", runtimes)
        if self.device not in DEVICES:
            raise InvalidInput(f"Target(device={self.device!r}): one of {', '.join(DEVICES)}")
        if self.threads is not None and not _counts(self.threads):
            raise InvalidInput(
                f"Target(threads={self.threads!r}): a whole number, at least 1, or None to sweep"
            )
        if not _counts(self.batch):
            raise InvalidInput(f"Target(batch={self.batch!r}): a whole number, at least 1")


@dataclass(frozen=True)
class Budget:
    """What may be lost, what is wanted, and how long the search may take.

    Args:
        max_drop: the largest loss of the metric, absolute unless `relative`.
        relative: take `max_drop` as a share of the original model's figure.
        minimise: the objective among candidates that hold: "latency", "size" or "memory".
        minutes: wall-clock allowance of the whole run; None is no limit.
        confidence: two-sided confidence of every verdict and interval.
        accept_undecided: allow a pick whose verdict is "cannot tell".
        limits: further upper bounds: "latency_ms" (median), "size_mb", "memory_mb" (10^6 bytes).
    """

    max_drop: float = 0.01
    relative: bool = False
    minimise: str = "latency"
    minutes: float | None = 20.0
    confidence: float = 0.95
    accept_undecided: bool = False
    limits: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        # 0 and 0.0 are one setting and must have one fingerprint.
        for name in ("max_drop", "confidence", "minutes"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _number(name, getattr(self, name)))
        limits = {name: _number(f"limits[{name!r}]", value) for name, value in self.limits.items()}
        object.__setattr__(self, "limits", MappingProxyType(limits))
        if not (self.max_drop >= 0 and math.isfinite(self.max_drop)):
            raise InvalidInput(f"Budget(max_drop={self.max_drop}): a finite number, 0 or more")
        if self.minimise not in OBJECTIVES:
            raise InvalidInput(
                f"Budget(minimise={self.minimise!r}): one of {', '.join(OBJECTIVES)}"
            )
        if self.minutes is not None and not self.minutes > 0:
            raise InvalidInput(f"Budget(minutes={self.minutes}): more than 0, or None for no limit")
        if not 0.5 < self.confidence < 1:
            raise InvalidInput(f"Budget(confidence={self.confidence}): between 0.5 and 1")
        for name, value in self.limits.items():
            if name not in LIMITS:
                raise InvalidInput(f"Budget(limits={{{name!r}: …}}): one of {', '.join(LIMITS)}")
            if not value > 0:
                raise InvalidInput(f"Budget(limits={{{name!r}: {value}}}): more than 0")


def _number(setting: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, SupportsFloat):
        raise InvalidInput(f"Budget({setting}={value!r}): a number is wanted")
    return float(value)


def _counts(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


@dataclass(frozen=True)
class Measurement:
    """One figure with its interval and its circumstances.

    `value`, `low` and `high` are in `unit`; `n` counts the samples or timed rounds behind it;
    `target` says where it was taken; `environment` is the fingerprint of the machine and versions.
    A time also names the `reference` it was raced against, with the ratio of the two times
    (value, low, high).
    """

    metric: str
    value: float
    unit: str
    low: float
    high: float
    n: int
    target: str
    environment: str
    reference: str | None = None
    ratio: tuple[float, float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """A plain dict; `Measurement.from_json` is its inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measurement:
        """Read back what `to_json` wrote."""
        fields = dict(data)
        ratio = fields.get("ratio")
        fields["ratio"] = None if ratio is None else tuple(ratio)
        return cls(**fields)

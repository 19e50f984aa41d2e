"""What a machine was measured to do: peaks, bandwidths, dispatch, and what runs in which type.

A `Probe` is a value: `probe()` measures one, `Probe.from_json` reads one back. Rates of computing
are in multiply-accumulates (one for each product that is added up), because that is what a model
is counted in; rates of memory in bytes read. A figure that could not be had is None and its row
says why; one whose spread, or whose circumstances, make it worthless is marked unreliable.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from burnish.errors import Damaged

SCHEMA = 1
DTYPES = ("float32", "bfloat16", "int8")
State = Literal["native", "converted", "emulated", "refused"]


@dataclass(frozen=True)
class Peak:
    """The highest rate of multiplying matrices: 10^9 multiply-accumulates a second.

    `low` and `high` bound the median over rounds; all three are None where nothing ran, and `note`
    says why, or what to think of the figure.
    """

    runtime: str
    dtype: str
    gmacs: float | None
    low: float | None
    high: float | None
    reliable: bool
    note: str | None


@dataclass(frozen=True)
class Bandwidth:
    """10^9 bytes a second that all threads together read from one level of the memory.

    `bytes` is what the level holds for those threads: of caches that each core has for itself, so
    many times as there are threads.
    """

    level: str
    bytes: int
    gb_per_s: float
    reliable: bool


@dataclass(frozen=True)
class Dispatch:
    """Seconds a runtime spends on an operator that has next to nothing to compute."""

    runtime: str
    seconds: float
    reliable: bool


@dataclass(frozen=True)
class Capability:
    """What a runtime really does with a graph of one type on this machine.

    "native": kernels of that type, not shown to be slow. "emulated": kernels of that type that are
    surely less than a tenth faster than float32's: the processor has no instructions for it, or the
    runtime does not use them. "converted": the runtime computes in another type. "refused": it runs
    no such graph, or answers wrongly. `how` names the kernels seen; `speed` is the time of float32
    over the time of this type on the same matrices (above 1: faster); `reason` says why it is not
    native, or what leaves that in doubt.
    """

    runtime: str
    dtype: str
    state: State
    how: str
    speed: float | None
    reason: str | None


@dataclass(frozen=True)
class Probe:
    """All that was measured of one machine, with one number of threads, under one set of masks.

    `environment` is the fingerprint of machine and versions, `masks` the environment variables that
    hid instructions from runtimes, `notes` what to know before believing any of it.
    """

    environment: str
    created: str
    threads: int
    masks: Mapping[str, str]
    peaks: tuple[Peak, ...]
    bandwidths: tuple[Bandwidth, ...]
    dispatches: tuple[Dispatch, ...]
    capabilities: tuple[Capability, ...]
    notes: tuple[str, ...] = ()

    def peak(self, runtime: str, dtype: str) -> float | None:
        """Multiply-accumulates a second; None where that was not measured."""
        for row in self.peaks:
            if (row.runtime, row.dtype) == (runtime, dtype):
                return None if row.gmacs is None else row.gmacs * 1e9
        return None

    def bandwidth(self, num_bytes: float) -> float | None:
        """Bytes a second from the smallest level that holds `num_bytes`; None: not measured."""
        levels = sorted(self.bandwidths, key=lambda row: row.bytes)
        holding = [row for row in levels if row.bytes >= num_bytes] or levels[-1:]
        return holding[0].gb_per_s * 1e9 if holding else None

    def dispatch(self, runtime: str) -> float | None:
        """Seconds an operator costs before it computes anything; None: not measured."""
        for row in self.dispatches:
            if row.runtime == runtime:
                return row.seconds
        return None

    def capability(self, runtime: str, dtype: str) -> Capability | None:
        """What the runtime does with that type here; None: not looked at."""
        for row in self.capabilities:
            if (row.runtime, row.dtype) == (runtime, dtype):
                return row
        return None

    def to_json(self) -> dict[str, Any]:
        """A plain dict; `Probe.from_json` is its inverse."""
        return {
            "schema": SCHEMA,
            "environment": self.environment,
            "created": self.created,
            "threads": self.threads,
            "masks": dict(self.masks),
            "peaks": [dataclasses.asdict(row) for row in self.peaks],
            "bandwidth": [dataclasses.asdict(row) for row in self.bandwidths],
            "dispatch": [dataclasses.asdict(row) for row in self.dispatches],
            "capabilities": [dataclasses.asdict(row) for row in self.capabilities],
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Probe:
        """Read back what `to_json` wrote. Raises `Damaged` when it is something else."""
        try:
            if record["schema"] != SCHEMA:
                raise Damaged(
                    f"a probe of schema {record['schema']!r}; this version reads schema {SCHEMA}"
                )
            probe = cls(
                environment=str(record["environment"]),
                created=str(record["created"]),
                threads=int(record["threads"]),
                masks={str(name): str(value) for name, value in record["masks"].items()},
                peaks=tuple(Peak(**row) for row in record["peaks"]),
                bandwidths=tuple(Bandwidth(**row) for row in record["bandwidth"]),
                dispatches=tuple(Dispatch(**row) for row in record["dispatch"]),
                capabilities=tuple(Capability(**row) for row in record["capabilities"]),
                notes=tuple(str(note) for note in record["notes"]),
            )
            rates = [row.gmacs for row in probe.peaks if row.gmacs is not None]
            rates += [row.gb_per_s for row in probe.bandwidths]
            rates += [row.seconds for row in probe.dispatches]
            sound = all(math.isfinite(rate) and rate >= 0 for rate in rates)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise Damaged(f"this is no probe's record ({error})") from None
        if not sound:
            raise Damaged("this is no probe's record (a rate is negative or no number)")
        return probe

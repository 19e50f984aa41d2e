"""A whole model in one runtime: its latency, and how much of it the runtime's counters explain.

Left out: times per operator; they stand with the operators (`_profile`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from burnish.errors import Damaged


@dataclass(frozen=True)
class Latency:
    """Median milliseconds of a call, and the interval of that median at 95 %."""

    p50_ms: float
    low_ms: float
    high_ms: float


@dataclass(frozen=True)
class Rest:
    """A kernel that belongs to no operator of the model: a layout change, a copy."""

    name: str
    kind: str
    ms: float


@dataclass(frozen=True)
class Run:
    """One runtime's turn.

    Attributes:
        name: the runtime.
        precision: what the artifact holds.
        latency: None where it failed.
        attributed_ms: the sum of the operators' times by the runtime's counters; None without.
        counted_ms: the same with the kernels in `rest`.
        share: attributed over latency: how much of the whole the operators explain.
        reliable: whether to believe the latency and what follows from it.
        note: what to know about the figures; why they are not reliable.
        failed: why there are none.
        memory_bytes: the most its process held, interpreter and runtime included; None: unknown.
        rest: the kernels that belong to no operator.
    """

    name: str
    precision: str = "float32"
    latency: Latency | None = None
    attributed_ms: float | None = None
    counted_ms: float | None = None
    share: float | None = None
    reliable: bool = False
    note: str | None = None
    failed: str | None = None
    memory_bytes: int | None = None
    rest: tuple[Rest, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A plain dict; `Run.from_json` is its inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Run:
        """Read back what `to_json` wrote. Raises `Damaged` when it is something else."""
        try:
            latency = record["latency"]
            rest = tuple(Rest(**row) for row in record["rest"])
            return cls(
                **{
                    **record,
                    "latency": None if latency is None else Latency(**latency),
                    "rest": rest,
                }
            )
        except (TypeError, KeyError) as error:
            raise Damaged(f"this is no record of a run ({error})") from None

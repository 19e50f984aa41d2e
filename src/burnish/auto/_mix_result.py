"""What mixed precision found: every artifact that was measured, the pick, and a row for each layer.

Left out: a page of its own; `to_json` is what a report would be drawn from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from burnish.bundle import Artifact
from burnish.core import Applied

_WIDTH = 44


@dataclass(frozen=True)
class Limit:
    """What is limited: "latency_ms", "size_mb" or "error", and the most that it may be."""

    of: str
    most: float

    @property
    def minimise(self) -> Literal["loss", "cost"]:
        """What is made least under it: "loss", or the "cost" in time."""
        return "cost" if self.of == "error" else "loss"


@dataclass(frozen=True, eq=False)
class Mixed:
    """One artifact: every layer in one precision (`uniform`), or an allocation.

    Attributes:
        label: what a person reads.
        runtime: of the artifact.
        base: what is not quantized computes in: "float32" or "bfloat16".
        precisions: of each layer.
        artifact: with its threads and execution type.
        latency_ms: the median, with `low_ms` and `high_ms`.
        size_mb: of its files, 10^6 bytes.
        error: squared error of the outputs on calibration samples, as a share of their power.
        predicted: what the table said of the limited sum before it was measured; None for uniform.
        quality: on the validation data, and `verdict` against the float model, as JSON.
        rows: for each layer its precision, cost, loss and why; empty for uniform ones.
        applied: the step that made its graph; None for a float graph.
    """

    label: str
    runtime: str
    base: str
    precisions: Mapping[str, str]
    artifact: Artifact
    uniform: bool
    latency_ms: float
    low_ms: float
    high_ms: float
    size_mb: float
    error: float
    predicted: float | None
    quality: Mapping[str, Any]
    verdict: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...] = ()
    applied: Applied | None = None

    def figure(self, of: str) -> float:
        """The figure that a limit is on."""
        return float(getattr(self, of))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, without the artifact and the step."""
        kept = {
            key: value for key, value in vars(self).items() if key not in ("artifact", "applied")
        }
        return {
            **kept,
            "precisions": dict(self.precisions),
            "quality": dict(self.quality),
            "verdict": dict(self.verdict),
            "rows": [dict(row) for row in self.rows],
        }


@dataclass(frozen=True, eq=False)
class Mix:
    """What `mix` found: the pick, everything measured (the pick among it), and what was noted.

    `beaten_by` names the uniform artifacts that are faster and have less error than the pick:
    none, where the limit is on the latency, since such a one would be the pick.
    """

    limit: Limit
    pick: Mixed
    candidates: tuple[Mixed, ...]
    notes: tuple[str, ...] = ()
    failures: Mapping[str, str] | None = None

    @property
    def met(self) -> bool:
        """Whether the pick is within the limit as measured, to five per cent."""
        return within(self.pick, self.limit)

    @property
    def beaten_by(self) -> tuple[str, ...]:
        """Uniform artifacts that are both faster and nearer to the float model than the pick."""
        return tuple(
            other.label
            for other in self.candidates
            if other.uniform
            and other.latency_ms < self.pick.latency_ms
            and other.error < self.pick.error
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "limit": asdict(self.limit),
            "pick": self.pick.label,
            "candidates": [item.to_json() for item in self.candidates],
            "notes": list(self.notes),
            "failures": dict(self.failures or {}),
        }

    def __str__(self) -> str:
        metric = self.pick.quality["metric"]
        head = f"{'':<{_WIDTH}} {'ms':>8} {'MB':>8} {'error':>9} {metric:>8}  verdict"
        lines = [f"{self.limit.of} at most {self.limit.most:g}", head]
        for item in sorted(self.candidates, key=lambda item: item.latency_ms):
            mark = "* " if item is self.pick else "  "
            lines.append(
                f"{mark + item.label:<{_WIDTH}} {item.latency_ms:>8.3f} {item.size_mb:>8.2f} "
                f"{item.error:>9.2g} {item.quality['value']:>8.4f}  {item.verdict['state']}"
            )
        lines += [f"  {label}: {reason}" for label, reason in (self.failures or {}).items()]
        if self.pick.rows:
            width = max(len(row["layer"]) for row in self.pick.rows)
            lines.append(f"{'layer':<{width}}  {'precision':<9}  why")
            lines += [
                f"{row['layer']:<{width}}  {row['precision']:<9}  {row['why']}"
                for row in self.pick.rows
            ]
        return "\n".join([*lines, *self.notes])


TOLERANCE = 1.05


def within(item: Mixed, limit: Limit) -> bool:
    """Whether an artifact keeps a limit, as measured, to five per cent."""
    return item.figure(limit.of) <= TOLERANCE * limit.most


def best(candidates: tuple[Mixed, ...], limit: Limit) -> Mixed | None:
    """The pick: least error within the limit, or least time where the limit is on the error."""
    good = [item for item in candidates if within(item, limit)]
    if limit.of == "error":
        return min(good, key=lambda item: (item.latency_ms, item.error), default=None)
    return min(good, key=lambda item: (item.error, item.latency_ms), default=None)

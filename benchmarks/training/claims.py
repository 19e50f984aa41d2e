"""What we claim of a measurement: met or missed, with the number and its interval."""

from __future__ import annotations

import math
from typing import Any

from ptq.claims import claim as at_most

from burnish.metrics import Verdict

__all__ = ["alike", "at_least", "at_most", "better"]


def at_least(text: str, value: float | None, bound: float, **more: Any) -> dict[str, Any]:
    """A value is at least its bound; `low` and `high`, where given, tell whether it is decided."""
    met = value is not None and not math.isnan(value) and value >= bound
    row: dict[str, Any] = {"claim": text, "met": met, "value": value, "bound": bound, **more}
    if more.get("low") is not None:
        row["decided"] = more["low"] >= bound or more["high"] < bound
    return row


def better(text: str, answer: Verdict) -> dict[str, Any]:
    """The second is better than the first beyond the paired interval (`max_drop` was 0)."""
    assert answer.max_drop == 0
    row = {"claim": text, "met": answer.low > 0, "value": answer.difference, "bound": 0.0}
    decided = answer.low > 0 or answer.high <= 0
    return row | {"low": answer.low, "high": answer.high, "n": answer.n, "decided": decided}


def alike(text: str, answer: Verdict) -> dict[str, Any]:
    """The paired interval of the difference holds 0; `value` is the difference."""
    row = {"claim": text, "met": answer.low <= 0 <= answer.high, "value": answer.difference}
    return row | {"bound": 0.0, "low": answer.low, "high": answer.high, "n": answer.n}

"""A row for each entrant: coverage, quality, agreement with float, times at each batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from models import Model

from burnish.bench import Race
from ptq.entrants import FLOAT, Answers, Entrant


def agreement(mine: Sequence[int], floats: Sequence[int]) -> float:
    """The share of equal classes."""
    return float(np.mean(np.asarray(mine) == np.asarray(floats)))


def rows_of(
    model: Model,
    field: Sequence[Entrant],
    races: Mapping[int, Race],
    found: Mapping[str, Answers],
    failed: Mapping[str, str],
) -> list[dict[str, Any]]:
    """A row for each entrant. Ratios are to the fastest float32 artifact at that batch."""
    floats = [e.label for e in field if e.tool == FLOAT and e.execution == "float32"]
    truth = next(found[label].classes for label in floats if label in found)
    rows = []
    for entrant in field:
        answered = found.get(entrant.label)
        rows.append(
            {
                "model": model.name,
                "label": entrant.label,
                "tool": entrant.tool,
                "runtime": entrant.runtime,
                "execution": entrant.execution,
                "precision": entrant.artifact.precision,
                "file": str(entrant.artifact.files[0]),
                "size_mb": entrant.artifact.size_bytes() / 1e6,
                "failed": failed.get(entrant.label),
                "coverage": answered.coverage if answered else None,
                "agreement": agreement(answered.classes, truth) if answered else None,
                "quality": float(np.mean(answered.scores)) if answered else None,
                "n": len(truth),
                "latency": {
                    str(batch): latency_of(races[batch], entrant.label, floats) for batch in races
                },
            }
        )
    return rows


def latency_of(run: Race, label: str, floats: Sequence[str]) -> dict[str, Any] | None:
    """Milliseconds with their interval, and the ratio to the fastest of `floats`; None: failed."""
    timing = run.timing(label)
    alive = [name for name in floats if run.timing(name).failed is None]
    if timing.failed is not None or not alive:
        return None
    reference = min(alive, key=lambda name: run.timing(name).p50)
    middle, low, high = (value * 1e3 for value in run.latency(label))
    ratio = {**vars(run.ratio(label, reference)), "reference": reference}
    return {
        "median_ms": middle,
        "low_ms": low,
        "high_ms": high,
        "p90_ms": timing.p90 * 1e3,
        "rounds": timing.rounds,
        "memory_mb": timing.memory_bytes / 1e6,
        "ratio": ratio,
    }

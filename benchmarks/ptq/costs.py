"""What quantizing itself costs: its time against NNCF's, taking turns, and its peak memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from scipy import stats

from ptq.tools import OURS, Tools

Watch = Callable[[Iterable[int], str], Iterable[int]]
CONFIDENCE = 0.95
# model, mode, batches, samples in a batch
MEMORY_RUNS = (
    ("lite0", "inference", 8, 16),
    ("lite0", "calibrate", 8, 16),
    ("lite0", "calibrate", 16, 16),
    ("resnet20", "calibrate", 10, 8),
    ("resnet20", "calibrate", 1000, 8),
)


def quantizing(
    tools: Tools, opponents: tuple[str, ...], repeats: int, watch: Watch
) -> dict[str, Any]:
    """Seconds of each phase of every repeat, and the ratio of our "quantize" to each opponent's.

    Every repeat is one fresh process of each, one after the other, in an order that turns round.
    """
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in (OURS, *opponents)}
    for index in watch(range(repeats), "quantizing, by turns"):
        for name in list(runs)[:: 1 if index % 2 else -1]:
            done = tools.run(name, tools.work / f"again-{name}", EXPORT="0")
            runs[name].append(done["seconds"])
    mine = [seconds["quantize"] for seconds in runs[OURS]]
    ratios = {
        name: ratio(mine, [seconds["quantize"] for seconds in runs[name]]) for name in opponents
    }
    medians = {name: median(item["quantize"] for item in of) for name, of in runs.items()}
    return {"median_seconds": medians, "ratios": ratios, "runs": runs}


def ratio(mine: list[float], theirs: list[float]) -> dict[str, float]:
    """Mean of the ratios of paired times on the logarithmic scale, with its t interval."""
    logs = np.log(np.asarray(mine) / np.asarray(theirs))
    half = 0.0
    if len(logs) > 1:
        spread = float(logs.std(ddof=1)) / np.sqrt(len(logs))
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(logs) - 1)) * spread
    value = float(logs.mean())
    low, high = (float(np.exp(value + sign * half)) for sign in (-1, 1))
    return {"value": float(np.exp(value)), "low": low, "high": high, "n": len(logs)}


def memory(
    tools: Tools, model: str, watch: Watch, runs: Sequence[tuple[str, str, int, int]] = MEMORY_RUNS
) -> list[dict[str, Any]]:
    """Peak bytes of each run of a model, in a fresh process each. `tools.work` is its task."""
    mine = [run for run in runs if run[0] == model]
    rows = []
    for index in watch(range(len(mine)), f"{model}: peak memory"):
        _, mode, batches, size = mine[index]
        out: Path = tools.work / f"memory-{mode}-{batches}"
        done = tools.run("memory", out, MODE=mode, BATCHES=str(batches), BATCH=str(size))
        rows.append({"mode": mode, **done["settings"]})
    return rows

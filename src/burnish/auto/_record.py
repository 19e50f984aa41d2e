"""A finished search as report.json, which the page and the table are made of.

Left out: nothing that was measured; what has no figure is null.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from burnish import __version__
from burnish.auto._foresight import judged
from burnish.auto._pick import Pick
from burnish.auto._search import Search
from burnish.auto._trial import Trial
from burnish.bench import Environment
from burnish.core import Frontier
from burnish.errors import Unreliable

SCHEMA = 1


def report_record(
    search: Search, pick: Pick | None, environment: Environment, title: str, fingerprint: str
) -> dict[str, Any]:
    """Everything a reader needs to decide and to defend the decision."""
    found = search.found
    frontier = _frontier(search)
    return {
        "schema": SCHEMA,
        "title": title,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "burnish": __version__,
        "goal": search.goal.settings(),
        "environment": environment.to_json(),
        "fingerprint": fingerprint,
        "reference": None if found.reference is None else found.reference.label,
        "candidates": [_candidate(search, trial, frontier) for trial in found.trials.values()]
        + [
            _failed(label, reason)
            for label, reason in search.shop.failures.items()
            if label not in found.trials
        ],
        "pick": None if pick is None else _pick(pick),
        "stopped": found.stopped,
        "failures": [
            {"label": label, "reason": reason} for label, reason in search.shop.failures.items()
        ],
        "coverage": {
            trial.label: [asdict(row) for row in trial.built.coverage]
            for trial in found.trials.values()
            if trial.built.coverage
        },
        "sensitivity": {
            label: [asdict(row) for row in table.ranked()]
            for label, table in found.sensitivity.items()
        },
        "preflight": None if found.foreseen is None else judged(search, found.foreseen).to_json(),
        "profile": found.profile,
        "recovery": [{"label": label, "what": what} for label, what in found.recovery],
        "phases": [{"name": name, "seconds": seconds} for name, seconds in found.phases],
        "notes": _notes(search),
    }


def _frontier(search: Search) -> Frontier:
    better = search.goal.task.metric.higher_is_better
    points = {}
    for label, seconds in search.found.seconds().items():
        value = search.found.trials[label].built.quality["value"]
        points[label] = (seconds, -value if better else value)
    return Frontier(("latency", "quality"), points)


def _candidate(search: Search, trial: Trial, frontier: Frontier) -> dict[str, Any]:
    built, race = trial.built, search.found.races[trial.label]
    timing = race.timing(trial.label)
    try:
        p50, low, high = race.latency(trial.label)
    except Unreliable:
        p50, low, high = timing.p50, timing.p50, timing.p50
    ratio = search.found.ratio(trial.label)
    reference = search.found.reference
    reason = search.acceptable(trial)
    accepted = reason is None
    timed = trial.label in frontier.points
    better = frontier.dominated_by(trial.label) if timed else None
    if accepted and better is not None:
        reason = f"{better} is no slower and no worse"
    return {
        "label": trial.label,
        "runtime": built.variant.runtime,
        "precision": "mixed" if built.variant.exclude else built.variant.precision,
        "threads": trial.threads,
        "status": "ok",
        "reason": reason,
        "accepted": accepted,
        "frontier": timed and better is None,
        "quality": dict(built.quality),
        "agreement": built.agreement,
        "verdict": dict(built.verdict),
        "latency": {
            "p50_ms": p50 * 1e3,
            "p90_ms": timing.p90 * 1e3,
            "p99_ms": timing.p99 * 1e3,
            "low_ms": low * 1e3,
            "high_ms": high * 1e3,
        },
        "ratio": None
        if ratio is None or reference is None
        else {**asdict(ratio), "reference": reference.label},
        "size_mb": timing.size_bytes / 1e6,
        "memory_mb": timing.memory_bytes / 1e6,
        "load_s": timing.load_seconds,
        "num_int8": len(built.int8),
        "num_operators": built.num_operators,
        "history": _history(search, trial),
        "folder": str(built.artifact.folder.relative_to(search.shop.store.folder)),
    }


def _history(search: Search, trial: Trial) -> list[Mapping[str, Any]]:
    return [
        {"step": applied.step, "settings": dict(applied.settings)}
        for applied in search.shop.history(trial.built)
    ]


def _failed(label: str, reason: str) -> dict[str, Any]:
    words = label.split(",")[0].split()
    empty = dict.fromkeys(
        ("quality", "agreement", "verdict", "latency", "ratio", "size_mb", "memory_mb", "load_s")
    )
    return {
        "label": label,
        "runtime": words[0],
        "precision": words[1] if len(words) > 1 else "",
        "threads": None,
        "status": "failed",
        "reason": reason,
        "accepted": False,
        "frontier": False,
        **empty,
        "num_int8": 0,
        "num_operators": 0,
        "history": [],
        "folder": None,
    }


def _pick(pick: Pick) -> dict[str, Any]:
    return {
        "label": pick.trial.label,
        "state": pick.state,
        "why": list(pick.why),
        "test": pick.test,
    }


def _notes(search: Search) -> list[str]:
    notes: list[str] = []
    if search.goal.target.device != "cpu":
        notes.append(
            f"device {search.goal.target.device!r} goes through the same code and has not been "
            "tried by the authors"
        )
    if not search.bfloat16:
        notes.append("bfloat16 was not tried: this machine has no instructions for it")
    return notes

"""From what was measured to the rows and claims of the result.

A claim on static int8 is met when its verdict at one point's margin holds, or when it cannot tell
and says how many samples would; it is missed where quality fails, or where nothing would tell. One
on quantization-aware training, made where static int8 lost half a point of top-1 or more, is met
when half of that came back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from models import Model
from models.model import groups_of
from ptq.claims import HALF_A_POINT
from scipy import stats
from training.claims import at_least

from burnish.bench import Race
from burnish.metrics import verdict
from table.entries import ALL, PLAIN, TRAINED, Entry

MAX_DROP = 0.01
CONFIDENCE = 0.95
REGAINED = 0.5  # of what static int8 lost, where that is half a point or more


def rows_of(
    model: Model,
    entries: Sequence[Entry],
    found: Mapping[str, Mapping[str, Any]],
    baseline: Mapping[str, Any],
    race: Race | None,
) -> list[dict[str, Any]]:
    """A row for each entry. Ratios are to the fastest float32 artifact of the race."""
    alive = [entry.label for entry in entries if _ran(entry, found, race)]
    floats = [e.label for e in entries if e.precision == "float32" and e.label in alive]
    reference = min(floats, key=lambda label: race.timing(label).p50) if race and floats else None
    return [
        {
            "model": model.name,
            "label": entry.label,
            "technique": entry.technique,
            "runtime": entry.runtime,
            "precision": entry.precision,
            **_measured(model, entry, found[entry.label], baseline),
            "latency": latency(race, entry.label, reference) if entry.label in alive else None,
        }
        for entry in entries
    ]


def _ran(entry: Entry, found: Mapping[str, Mapping[str, Any]], race: Race | None) -> bool:
    exported = found[entry.label]["failed"] is None
    return race is not None and exported and race.timing(entry.label).failed is None


def _measured(
    model: Model, entry: Entry, row: Mapping[str, Any], baseline: Mapping[str, Any]
) -> dict[str, Any]:
    kept = {name: row.get(name) for name in ("failed", "size_mb", "int8", "seconds", "notes")}
    if row["failed"] is not None:
        return {**kept, "quality": None, "verdict": None, "agreement": None}
    given = row["answers"]
    same = np.asarray(given["classes"]) == np.asarray(baseline["classes"])
    answer = verdict(
        baseline["scores"],
        given["scores"],
        max_drop=MAX_DROP,
        confidence=CONFIDENCE,
        kind="binary" if model.metric.kind == "binary" else "continuous",
        higher_is_better=model.metric.higher_is_better,
        groups=groups_of(model),
    )
    return {
        **kept,
        "quality": quality(model, given["scores"]),
        "verdict": asdict(answer),
        "agreement": float(same.mean()),
    }


def quality(model: Model, scores: Sequence[float]) -> dict[str, Any]:
    """The mean score with its own interval: Wilson's, or t over the groups' means."""
    values = np.asarray(scores, dtype=np.float64)
    groups = groups_of(model)
    mean = float(values.mean())
    if groups is None:
        hits = stats.binomtest(round(float(values.sum())), len(values))
        interval = hits.proportion_ci(CONFIDENCE, method="wilson")
        low, high = float(interval.low), float(interval.high)
    else:
        _, index = np.unique(groups, return_inverse=True)
        means = np.bincount(index, values) / np.bincount(index)
        tail = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(means) - 1))
        reach = tail * float(means.std(ddof=1)) / float(np.sqrt(len(means)))
        low, high = mean - reach, mean + reach
    return {"metric": model.metric.name, "value": mean, "low": low, "high": high, "n": len(values)}


def latency(race: Race | None, label: str, reference: str | None) -> dict[str, Any] | None:
    """Milliseconds with their interval, and the ratio to the reference."""
    if race is None or reference is None:
        return None
    middle, low, high = (value * 1e3 for value in race.latency(label))
    return {
        "median_ms": middle,
        "low_ms": low,
        "high_ms": high,
        "rounds": race.timing(label).rounds,
        "ratio": {**vars(race.ratio(label, reference)), "reference": reference},
    }


def claims_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One for each row of static int8, plain and with all refinements; then what came back."""
    return [*_kept(rows), *_regained(rows)]


def _kept(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    text = "quality is within one point of the float model's, or the n that would tell is known"
    found = []
    for row in rows:
        if row["technique"] not in (PLAIN, ALL):
            continue
        answer = row["verdict"] or {"state": "failed", "n": None, "needed": None}
        state, needed = answer["state"], answer["needed"]
        found.append(
            {
                "claim": f"{row['model']}, {row['label']}: {text}",
                "met": state == "holds" or (state == "cannot tell" and needed is not None),
                "value": answer.get("difference"),
                "low": answer.get("low"),
                "high": answer.get("high"),
                "bound": -MAX_DROP,
                "decided": state in ("holds", "fails"),
                "state": state,
                "n": answer["n"],
                "needed": needed,
                "missing": row["failed"],
            }
        )
    return found


def _regained(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each trained row beside the plain one that lost enough."""
    lost = {
        (row["model"], row["runtime"]): -row["verdict"]["difference"]
        for row in rows
        if row["technique"] == PLAIN and row["verdict"] is not None
    }
    found = []
    for row in rows:
        loss = lost.get((row["model"], row["runtime"]), 0.0)
        if row["technique"] != TRAINED or loss < HALF_A_POINT:
            continue
        after = row["verdict"]
        share = None if after is None else 1 + after["difference"] / loss
        text = f"{row['model']}, {row['label']}: regains half of what static int8 loses"
        found.append(at_least(text, share, REGAINED, loss=loss, missing=row["failed"]))
    return found


def renewed(document: Mapping[str, Any], *later: Mapping[str, Any]) -> dict[str, Any]:
    """A result with the rows of later runs: in place of its own, and behind them.

    Float rows of a later run are there for its ratios and replace nothing. `renewed` tells, by run,
    its commit, the rows that were measured again, and those that are new.
    """
    models: dict[str, dict[str, Any]] = {name: {} for name in document["models"]}
    for row in document["rows"]:
        models[row["model"]][row["label"]] = row
    claims = {item["claim"]: item for item in document["claims"]}
    told = []
    for run in later:
        again, new = [], []
        for row in run["rows"]:
            if row["technique"].startswith("float32"):
                continue
            known = models[row["model"]]
            (again if row["label"] in known else new).append(f"{row['model']}: {row['label']}")
            known[row["label"]] = row
        claims |= {item["claim"]: item for item in run["claims"]}
        commit = (run["environment"]["commit"] or "none")[:12]
        told.append({"commit": commit, "rows": again, "new": new})
    rows = [row for known in models.values() for row in known.values()]
    return {**document, "rows": rows, "claims": list(claims.values()), "renewed": told}

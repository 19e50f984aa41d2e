"""What the page says first: the pick in one sentence, how far to believe it, what was not tried.

Everything is put together from the run's own record; a figure that is missing leaves its clause out
and is said to be unknown where a reader would look for it. "Not tried" is found by comparing what
was measured with what this version of Burnish can try, so silence is never taken for a negative.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from burnish.report._record import Candidate, Operator, Quality, Run
from burnish.report._words import (
    Scale,
    Speed,
    confidence,
    count,
    significant,
    speed,
    unit,
    verdict_sentence,
)

RUNTIMES = ("eager", "onnxruntime", "openvino")
PRECISIONS = ("float32", "bfloat16", "int8")


@dataclass(frozen=True)
class Headline:
    """The first screen: `tone` is "good", "warn" or "bad"."""

    badge: str
    tone: str
    title: str
    sentence: str
    verdict: str
    tiles: tuple[tuple[str, str, str], ...]


BADGES = {
    "verified": ("Verified on test data", "good"),
    "not verified": ("Not verified: the test data does not confirm it", "bad"),
    "undecided, accepted": ("Undecided, accepted on request", "warn"),
    "no test data": ("No test data: chosen and judged on the same data", "warn"),
}


def headline(run: Run, metric: Scale) -> Headline:
    """The pick, what it costs and what it is worth."""
    if run.pick is None:
        return _no_pick(run)
    pick = run.pick
    chosen = run.named(pick.label)
    badge, tone = BADGES.get(pick.state or "", (pick.state or "State unknown", "warn"))
    fast = raced(chosen, run) if chosen else speed(None)
    quality = pick.quality or (chosen.quality if chosen else None)
    size = chosen.size_mb if chosen else None
    parts = [_speed_clause(run, pick.label, fast), _quality_clause(pick.quality, quality, metric)]
    parts.append(f"{significant(size)} MB on disk" if size is not None else "size unknown")
    verdict = pick.verdict or (chosen.verdict if chosen else None)
    where = "On test data, looked at once" if pick.verdict else "On validation data"
    told = f"{where}. {upper(verdict_sentence(verdict, metric))}"
    tiles = _tiles(run, chosen, fast, quality, metric)
    return Headline(badge, tone, pick.label, "; ".join(parts) + ".", told, tiles)


def _no_pick(run: Run) -> Headline:
    judged = Counter(c.verdict.state for c in run.candidates if c.verdict)
    failed = sum(c.failed for c in run.candidates)
    told = [f"{number} {_says(state)}" for state, number in sorted(judged.items())]
    told += [f"{failed} could not be made or run"] if failed else []
    total = len(run.candidates)
    sentence = f"No candidate meets the goal ({total} made{': ' if told else ''}"
    sentence += "; ".join(told) + ")."
    stopped = f"The search ended: {run.stopped}." if run.stopped else "Why it ended is unknown."
    return Headline("No pick", "bad", "Nothing to ship yet", sentence, stopped, ())


def _says(state: str) -> str:
    return {"holds": "hold the quality", "fails": "lose too much quality"}.get(
        state, "undecided on this many samples" if state == "cannot tell" else state
    )


def _speed_clause(run: Run, label: str, fast: Speed) -> str:
    if run.reference == label:
        return "the fastest float artifact itself: nothing that keeps the quality was faster"
    best = f"the best float artifact ({run.reference or 'unnamed'})"
    level = confidence(_level(run))
    if fast.state == "unknown":
        return f"its speed against {best} is unknown"
    ends = f", {level} {fast.ends}" if fast.ends else ""
    times = fast.text.rstrip("×")
    if fast.state == "unreliable":
        return f"{times} times as fast as {best}{ends}, {fast.note}"
    if fast.state == "alike":
        return f"no faster or slower than {best} as far as can be told ({fast.text}{ends})"
    slower = ", so slower" if fast.state == "slower" else ""
    return f"{times} times as fast as {best}{slower}{ends}"


def _quality_clause(test: Quality | None, quality: Quality | None, metric: Scale) -> str:
    if quality is None or quality.value is None:
        return f"{metric.name} unknown"
    where = "test data" if test else "validation data (there is no test figure)"
    n = f", n = {count(quality.n)}" if quality.n is not None else ""
    return f"{metric.name} {metric.value(quality.value)} on {where}{n}"


def _tiles(
    run: Run, chosen: Candidate | None, fast: Speed, quality: Quality | None, metric: Scale
) -> tuple[tuple[str, str, str], ...]:
    base = run.named(run.reference)
    pick = run.pick
    latency = chosen.latency if chosen else None
    old = base.latency if base else None
    before = f"best float {unit(old.p50 if old else None, 'ms')}"
    tail = f"p99 {unit(latency.p99, 'ms')}; " if latency and latency.p99 is not None else ""
    if pick and pick.quality:
        where = f"on test data; the original {metric.with_interval(pick.baseline)}"
    else:
        where = "on validation data"
    size, was = (one.size_mb if one else None for one in (chosen, base))
    return (
        ("speed against the best float", fast.text, _ends(fast, _level(run))),
        ("median latency per call", unit(latency.p50 if latency else None, "ms"), tail + before),
        (metric.name, metric.value(quality.value if quality else None), where),
        ("size on disk", unit(size, "MB"), f"best float {unit(was, 'MB')}"),
    )


def _ends(fast: Speed, level: float | None) -> str:
    ends = f"{confidence(level)} {fast.ends}" if fast.ends else ""
    return "; ".join(part for part in (ends, fast.note) if part) or "no interval"


def _level(run: Run) -> float | None:
    budget = run.goal.get("budget")
    level = budget.get("confidence") if isinstance(budget, Mapping) else None
    return level if isinstance(level, float) else None


def upper(sentence: str) -> str:
    """The sentence with a capital to begin with."""
    return sentence[:1].upper() + sentence[1:]


def raced(candidate: Candidate, run: Run) -> Speed:
    """Its speed against the reference, which is not raced against itself."""
    if candidate.label == run.reference:
        return Speed("1×", "", "the reference", "reference")
    return speed(candidate.ratio)


def not_tried(run: Run) -> tuple[str, ...]:
    """What this version could have tried and did not, and what no version of this run covers."""
    target = run.goal.get("target")
    target = target if isinstance(target, Mapping) else {}
    told = [*_missing_runtimes(run, target), *_missing_precisions(run)]
    threads = sorted({c.threads for c in run.candidates if c.threads is not None})
    if threads:
        told.append(f"Other numbers of threads than {', '.join(map(str, threads))}.")
    if target.get("batch") is not None:
        told.append(f"Other batches than {target['batch']} per call, for timing.")
    if target.get("device") is not None:
        told.append(f"Other devices than {target['device']}, and other machines than this one.")
    steps = sorted({step for c in run.candidates for step in c.steps})
    used = (
        f"the steps used are {', '.join(steps)}"
        if steps
        else "none was applied, the candidates are the original model as it is"
    )
    told.append(f"Any other step: {used}.")
    return tuple(told)


def _missing_runtimes(run: Run, target: Mapping[str, Any]) -> list[str]:
    allowed = target.get("runtimes")
    seen = {c.runtime for c in run.candidates if not c.failed}
    failed = {c.runtime for c in run.candidates if c.failed}
    told = []
    for runtime in dict.fromkeys((*RUNTIMES, *sorted(name for name in failed if name))):
        if runtime in seen:
            continue
        if runtime in failed:
            told.append(
                f"The runtime {runtime} was tried but gave nothing: every candidate of it failed."
            )
            continue
        ruled_out = isinstance(allowed, list) and allowed and runtime not in allowed
        why = "the target does not allow it" if ruled_out else "no candidate of it was recorded"
        told.append(f"The runtime {runtime}: {why}.")
    return told


def _missing_precisions(run: Run) -> list[str]:
    ran = {c.precision for c in run.candidates if not c.failed}
    failed = {c.precision for c in run.candidates if c.failed}
    ran |= {"int8"} if "mixed" in ran else set()
    return [
        f"{one} gave nothing: every candidate of it failed."
        if one in failed
        else f"{one}: no candidate of it was recorded."
        for one in PRECISIONS
        if one not in ran
    ]


@dataclass(frozen=True)
class Covered:
    """The coverage of one or more candidates that have the same."""

    labels: tuple[str, ...]
    counts: tuple[tuple[str, int], ...]
    reasons: tuple[tuple[str, int], ...]
    operators: tuple[Operator, ...]


STATE_ORDER = ("int8", "float", "fused", "passes through")


def coverage(run: Run) -> tuple[Covered, ...]:
    """Per candidate: how many operators in which state, and why the float ones are; pick first."""
    same: dict[tuple[Operator, ...], list[str]] = {}
    for label, operators in run.coverage.items():
        same.setdefault(operators, []).append(label)
    found = []
    for operators, labels in same.items():
        states = Counter(one.state for one in operators)
        others = sorted(states.keys() - set(STATE_ORDER))
        counts = tuple((s, states[s]) for s in (*STATE_ORDER, *others) if states[s])
        why = Counter(one.reason for one in operators if one.state == "float")
        found.append(Covered(tuple(labels), counts, tuple(why.most_common()), operators))
    picked = run.pick.label if run.pick else None
    return tuple(sorted(found, key=lambda one: picked not in one.labels))

"""A run as one page: what was picked and why, what else was tried, and where it was measured.

Left out: sorting and filtering. The table has some ten rows, and paper can do neither.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.report._figure import drawable, figure, limit
from burnish.report._foreseen import foreseen
from burnish.report._icicle import COLOURS, icicle
from burnish.report._profile_record import Timed
from burnish.report._profile_sentences import bound, busy, by_speed
from burnish.report._record import Candidate, Run, Sensitive, read
from burnish.report._render import put, render
from burnish.report._sentences import coverage, headline, not_tried, raced
from burnish.report._tree import Part, tree
from burnish.report._words import (
    Scale,
    Speed,
    count,
    duration,
    flatten,
    interval,
    moment,
    scale,
    significant,
    unit,
    verdict_state,
    verdict_title,
    would_decide,
)

FILE = "report.html"


def report(run_folder: Path, out: Path | None = None) -> Path:
    """Write the page of a run and return its path.

    Args:
        run_folder: the folder of the run, in which report.json lies.
        out: the file to write, or an existing folder to write report.html into; the run folder
            itself when None.

    Raises:
        InvalidInput: no such run, or no such folder to write into.
        Damaged: report.json is cut short or holds a value of the wrong type.
    """
    run_folder = Path(run_folder)
    return put(_render(read(run_folder)), run_folder, FILE, out)


def _render(run: Run) -> str:
    metric = scale(run)
    ordered = in_order(run.candidates, run.reference)
    numbers = {candidate.label: number for number, candidate in enumerate(ordered, 1)}
    profiled = _profiled(run)
    figures = {
        "frontier": figure(run, numbers, metric),
        "icicle": icicle(profiled.whole, [profiled.runtime], 0) if profiled else None,
    }
    return render("run.html.j2", figures, _context(run, ordered, numbers, metric, profiled))


def _context(
    run: Run,
    ordered: list[Candidate],
    numbers: dict[str, int],
    metric: Scale,
    profiled: Profiled | None,
) -> dict[str, Any]:
    failed = {c.label: c.reason or "no reason was written down" for c in ordered if c.failed}
    failed |= dict(run.failures)
    undrawn = [c.label for c in ordered if not drawable(c) and c.label not in failed]
    picked = run.named(run.pick.label) if run.pick else None
    times = [seconds for _, seconds in run.phases if seconds is not None]
    total = sum(times)
    return {
        "run": run,
        "metric": metric,
        "head": headline(run, metric),
        "limit": limit(run, metric),
        "rows": [_row(c, numbers[c.label], run, metric) for c in ordered],
        "failed": failed,
        "undrawn": undrawn,
        "coverage": coverage(run),
        "sensitivity": [
            (label, _sensitive(rows, metric)) for label, rows in run.sensitivity.items()
        ],
        "steps": picked.steps if picked else (),
        "goal": flatten(run.goal),
        "environment": flatten(run.environment),
        "phases": [(name, duration(s), 100 * (s or 0) / (total or 1)) for name, s in run.phases],
        "total": duration(total if times else None),
        "created": moment(run.created),
        "not_tried": not_tried(run),
        "foreseen": foreseen(run.preflight, after=True) if run.preflight else None,
        "profiled": profiled,
    }


@dataclass(frozen=True)
class Profiled:
    """The original model in one runtime: which, and where its time goes."""

    name: str
    whole: Part
    runtime: Timed
    told: str
    colours: dict[str, str]


def _profiled(run: Run) -> Profiled | None:
    """The profile's runtime that is the reference's, else its fastest; None without times."""
    if run.profile is None:
        return None
    whole = tree(run.profile.operators)
    timed = [one for one in by_speed(run.profile.runtimes) if whole.seconds(one.name)]
    if not timed:
        return None
    reference = run.named(run.reference)
    own = next((one for one in timed if reference and one.name == reference.runtime), None)
    chosen = own or timed[0]
    name = f"the reference, {run.reference}" if own else f"the original model, in {chosen.name}"
    return Profiled(name, whole, chosen, f"{busy(whole, chosen)} {bound(whole, chosen)}", COLOURS)


def in_order(candidates: tuple[Candidate, ...], reference: str | None) -> list[Candidate]:
    """The fastest first; those without a time after them, the failed ones last.

    Fastest by the ratio to the reference, which was taken side by side: median times of different
    races are of different moments on the machine. Without a ratio, by the median.
    """

    def place(candidate: Candidate) -> tuple[bool, bool, float, float]:
        p50 = candidate.latency.p50 if candidate.latency else None
        ratio = candidate.ratio.value if candidate.ratio else None
        own = candidate.label == reference
        return (
            candidate.failed,
            p50 is None,
            1.0 if own else math.inf if ratio is None else ratio,
            p50 or 0.0,
        )

    return sorted(candidates, key=place)


@dataclass(frozen=True)
class Row:
    """One line of the table of candidates, in words."""

    number: int
    candidate: Candidate
    tags: tuple[str, ...]
    latency: str
    latency_notes: tuple[str, ...]
    speed: Speed
    quality: str
    quality_notes: tuple[str, ...]
    state: str
    verdict: str
    verdict_notes: tuple[str, ...]
    agreement: str
    size: str
    size_notes: tuple[str, ...]
    coverage: str


def _row(candidate: Candidate, number: int, run: Run, metric: Scale) -> Row:
    latency, quality, verdict = candidate.latency, candidate.quality, candidate.verdict
    tags = [
        ("pick", run.pick is not None and run.pick.label == candidate.label),
        ("best float", run.reference == candidate.label),
        ("frontier", candidate.frontier),
        ("not accepted", not candidate.accepted and not candidate.failed),
        ("failed", candidate.failed),
    ]
    n = f"n {count(quality.n)}" if quality and quality.n is not None else ""
    of = f"{count(candidate.num_int8)} of {count(candidate.num_operators)}"
    if candidate.num_int8 == 0 and candidate.num_operators == 0 and not candidate.failed:
        of = "none: float"
    blank = "–" if candidate.failed else "unknown"
    return Row(
        number=number,
        candidate=candidate,
        tags=tuple(name for name, holds in tags if holds),
        latency=unit(latency.p50, "ms") if latency else blank,
        latency_notes=_spread(candidate),
        speed=raced(candidate, run),
        quality=metric.value(quality.value) if quality else blank,
        quality_notes=tuple(part for part in (metric.ends(quality), n) if part) if quality else (),
        state=verdict_state(verdict),
        verdict=verdict_title(verdict),
        verdict_notes=_verdict_notes(candidate, metric),
        agreement=_share(candidate.agreement, blank),
        size=unit(candidate.size_mb, "MB") if candidate.size_mb is not None else blank,
        size_notes=_footprint(candidate),
        coverage=of if candidate.num_int8 is not None else blank,
    )


MOST = 30  # operators whose sensitivity is shown; the rest are summed up in a line


@dataclass(frozen=True)
class Bars:
    """What each operator costs alone, the worst first: name, kind, error, metric, length."""

    rows: tuple[tuple[str, str, str, str, float], ...]
    rest: str


def _sensitive(rows: tuple[Sensitive, ...], metric: Scale) -> Bars:
    worst = sorted(rows, key=lambda one: -one.error)
    largest = worst[0].error if worst else 0.0
    shown = tuple(
        (
            one.operator,
            one.kind,
            significant(one.error),
            "" if one.change is None else metric.change(one.change),
            100 * one.error / largest if largest > 0 else 0.0,
        )
        for one in worst[:MOST]
    )
    rest = sum(one.error for one in worst[MOST:])
    hidden = len(worst) - MOST
    return Bars(shown, f"{hidden} more, {significant(rest)} in all" if hidden > 0 else "")


def _verdict_notes(candidate: Candidate, metric: Scale) -> tuple[str, ...]:
    verdict = candidate.verdict
    if verdict is None:
        return ()
    ends = interval(verdict.low, verdict.high, metric.bare)
    change = metric.change(verdict.difference)
    change = change if verdict.difference is not None else "change unknown"
    open_question = verdict.state == "cannot tell"
    notes = (change, ends, would_decide(verdict) if open_question else "")
    return tuple(part for part in notes if part)


def _share(value: float | None, blank: str) -> str:
    return blank if value is None else Scale("agreement", True, True).value(value)


def _spread(candidate: Candidate) -> tuple[str, ...]:
    latency = candidate.latency
    if latency is None:
        return ()
    ends = interval(latency.low, latency.high, significant)
    named = (("p90", latency.p90), ("p99", latency.p99))
    tails = [f"{name} {significant(value)}" for name, value in named if value is not None]
    return tuple(part for part in (ends, *tails) if part)


def _footprint(candidate: Candidate) -> tuple[str, ...]:
    parts = []
    if candidate.memory_mb is not None:
        parts.append(f"memory {significant(candidate.memory_mb)} MB")
    if candidate.load_s is not None:
        parts.append(f"loads in {significant(candidate.load_s)} s")
    return tuple(parts)

"""A sweep as a page: which batch and which split of the cores, what it gives and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.report._curve import curve, drawable, split_name
from burnish.report._render import put, render
from burnish.report._sentences import Headline, upper
from burnish.report._sweep_record import Best, Point, Sweep, read
from burnish.report._words import UNKNOWN, count, flatten, interval, moment, significant, unit

FILE = "sweep.html"


def sweep_page(sweep: Path, out: Path | None = None) -> Path:
    """Write the page of a sweep and return its path.

    Args:
        sweep: the folder that holds sweep.json, or that file itself.
        out: the file to write, or an existing folder to write sweep.html into; beside the sweep
            when None.

    Raises:
        InvalidInput: no such sweep, or no such folder to write into.
        Damaged: sweep.json is cut short or holds a value of the wrong type.
    """
    sweep = Path(sweep)
    found = read(sweep)
    folder = sweep if sweep.is_dir() else sweep.parent
    page = render("sweep.html.j2", {"curve": curve(found)}, _context(found))
    return put(page, folder, FILE, out)


def _context(sweep: Sweep) -> dict[str, Any]:
    chosen = sweep.best.point or sweep.best.nearest if sweep.best else None
    return {
        "sweep": sweep,
        "head": _headline(sweep, chosen),
        "created": moment(sweep.created),
        "rows": [_row(one, one is chosen) for one in sweep.points],
        "energy": sweep.energy or "not recorded",
        "with_energy": any(one.joules is not None for one in sweep.points),
        "cost": _cost(sweep, chosen),
        "environment": flatten(sweep.environment),
    }


def _headline(sweep: Sweep, chosen: Point | None) -> Headline:
    best = sweep.best
    ran = [one for one in sweep.points if drawable(one)]
    if not ran:
        return Headline("Sweep", "bad", "No combination could be timed", _failures(sweep), "", ())
    if best is None:
        return Headline("Sweep", "good", _fastest(ran), "Nothing was asked of it.", _least(ran), ())
    limit = _limit(best)
    if best.point is None:
        title = f"No combination has {limit}"
        return Headline("Not met", "bad", title, best.why or "", _least(ran), _tiles(chosen))
    title = _name(best.point)
    sentence = f"The best with {limit}."
    badge = "Best of those tried" if best.point.reliable else "Best, but not to be relied on"
    tone = "good" if best.point.reliable else "warn"
    return Headline(badge, tone, title, sentence, upper(best.why or ""), _tiles(chosen))


def _limit(best: Best) -> str:
    if best.max_p99 is not None:
        return f"a p99 of at most {unit(best.max_p99, 'ms')}"
    if best.min_throughput is not None:
        return f"at least {unit(best.min_throughput, 'samples/s')}"
    return "no limit that was written down"


def _failures(sweep: Sweep) -> str:
    reasons = dict.fromkeys(one.failed for one in sweep.points if one.failed is not None)
    return "; ".join(reasons) or "Why is not written down."


def _fastest(ran: list[Point]) -> str:
    most = max(ran, key=lambda one: one.throughput or 0.0)
    return f"At most {unit(most.throughput, 'samples/s')}: {_name(most)}"


def _least(ran: list[Point]) -> str:
    quickest = min(ran, key=lambda one: one.p50 or 0.0)
    most = max(ran, key=lambda one: one.throughput or 0.0)
    return (
        f"Quickest: {_name(quickest)}, median {unit(quickest.p50, 'ms')}. "
        f"Most: {_name(most)}, {unit(most.throughput, 'samples/s')}."
    )


def _name(point: Point) -> str:
    return f"batch {UNKNOWN if point.batch is None else point.batch}, {split_name(point)}"


def _tiles(point: Point | None) -> tuple[tuple[str, str, str], ...]:
    if point is None:
        return ()
    doubt = "" if point.reliable else "unreliable"
    ends = interval(point.low, point.high, significant)
    joules = "not measurable here" if point.joules is None else "per sample"
    return (
        ("throughput", unit(point.throughput, "/s"), doubt or "samples of all streams together"),
        ("median latency", unit(point.p50, "ms"), ends or "no interval"),
        ("p99", unit(point.p99, "ms"), doubt or "of a call"),
        ("energy", "–" if point.joules is None else unit(point.joules, "J"), joules),
    )


def _cost(sweep: Sweep, chosen: Point | None) -> str | None:
    """What a million inferences cost; None where nobody gave a price."""
    if sweep.price is None:
        return None
    known = [one for one in sweep.points if one.cost is not None and one.failed is None]
    told = f"At {significant(sweep.price)} an hour"
    if not known:
        return f"{told}, what a million inferences cost is unknown."
    cheapest = min(known, key=lambda one: one.cost or 0.0)
    sentences = []
    if chosen is not None and chosen.cost is not None and chosen is not cheapest:
        sentences.append(
            f"{significant(chosen.cost)} for a million inferences with {_name(chosen)}"
        )
    sentences.append(f"{significant(cheapest.cost)} at the cheapest ({_name(cheapest)})")
    return f"{told}: {'; '.join(sentences)}."


@dataclass(frozen=True)
class Row:
    """One combination, in words; `tone` is "picked", "failed", "doubt" or ""."""

    batch: str
    split: str
    p50: str
    ends: str
    p99: str
    throughput: str
    joules: str
    cost: str
    tone: str
    notes: tuple[str, ...]


def _row(point: Point, chosen: bool) -> Row:
    failed = point.failed is not None
    blank = "–" if failed else UNKNOWN
    unsure = not failed and not point.reliable
    notes = [f"failed: {point.failed}"] if failed else ["unreliable"] if unsure else []
    return Row(
        batch=count(point.batch),
        split=split_name(point),
        p50=blank if point.p50 is None else significant(point.p50),
        ends=interval(point.low, point.high, significant),
        p99=blank if point.p99 is None else significant(point.p99),
        throughput=blank if point.throughput is None else significant(point.throughput),
        joules="–" if point.joules is None else significant(point.joules),
        cost="–" if point.cost is None else significant(point.cost),
        tone="picked" if chosen else "failed" if failed else "doubt" if unsure else "",
        notes=(*notes, *([point.note] if point.note else [])),
    )

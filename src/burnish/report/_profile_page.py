"""A model's profile as a page: where the time goes, and what the machine would allow.

The runtimes share the figures and the table; buttons choose which of them is shown, and the fastest
is at first. Everything else is on the page at once, so that paper loses only the other runtimes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from burnish.report._foreseen import Foreseen, foreseen
from burnish.report._icicle import COLOURS, icicle
from burnish.report._machine_table import capabilities, peaks
from burnish.report._module_table import besides, rows
from burnish.report._profile_record import Device, Memory, Profile, Timed, read
from burnish.report._profile_sentences import bound, busy, by_speed, headline, kinds
from burnish.report._render import put, render
from burnish.report._roofline import roofline, undrawn
from burnish.report._timeline import timeline
from burnish.report._tree import UNBOUND, Part, tree
from burnish.report._words import (
    UNKNOWN,
    flatten,
    interval,
    moment,
    percent,
    significant,
    size,
    unit,
)

FILE = "profile.html"
CARRIED = (0.95, 1.05)  # operator time over latency within which the counters carry the whole


def profile_page(profile: Path, out: Path | None = None) -> Path:
    """Write the page of a profile and return its path.

    Args:
        profile: the folder that holds profile.json, or that file itself.
        out: the file to write, or an existing folder to write profile.html into; beside the
            profile when None.

    Raises:
        InvalidInput: no such profile, or no such folder to write into.
        Damaged: profile.json is cut short or holds a value of the wrong type.
    """
    profile = Path(profile)
    found = read(profile)
    folder = profile if profile.is_dir() else profile.parent
    return put(_page(found), folder, FILE, out)


def _page(profile: Profile) -> str:
    whole = tree(profile.operators)
    runtimes = switchable(profile, whole)
    shown = first(runtimes, whole)
    figures = {
        "icicle": icicle(whole, runtimes, shown),
        "roofline": roofline(profile.operators, runtimes, profile.probe, shown),
        "memory": timeline(profile.memory),
    }
    return render("profile.html.j2", figures, _context(profile, whole, runtimes, shown))


def switchable(profile: Profile, whole: Part) -> list[Timed]:
    """The runtimes that have times for operators, the fastest first.

    One that only the operators know of, since the profile lists no run of it, is among them.
    """
    names = dict.fromkeys(name for one in whole.operators for name in one.seconds)
    listed = [one for one in profile.runtimes if one.name in names]
    blank = Timed("", None, None, None, None, None, None, None, False, None, None, ())
    unlisted = [replace(blank, name=n) for n in names if profile.timed(n) is None]
    return [one for one in by_speed([*listed, *unlisted]) if whole.seconds(one.name)]


def first(runtimes: list[Timed], whole: Part) -> int:
    """Which of them is shown at first: the fastest whose figures are reliable, else the fastest."""
    return next((index for index, one in enumerate(runtimes) if one.reliable), 0)


def _context(profile: Profile, whole: Part, runtimes: list[Timed], shown: int) -> dict[str, Any]:
    kinds_missing = Counter(one.kind for one in whole.operators if one.macs is None)
    versions = profile.environment.get("versions")
    version = versions.get("burnish") if isinstance(versions, dict) else None
    return {
        "profile": profile,
        "head": headline(profile, whole, runtimes[shown] if runtimes else None),
        "created": moment(profile.created),
        "version": version if isinstance(version, str) else "",
        "runs": [_run(one) for one in profile.runtimes],
        "runtimes": runtimes,
        "shown": shown,
        "colours": {bound: COLOURS[bound] for bound in (*COLOURS,)},
        "unbound": UNBOUND,
        "busy": [busy(whole, one) for one in runtimes],
        "bound": [bound(whole, one) for one in runtimes],
        "kinds": [kinds(whole, one.name) for one in runtimes],
        "rest": [_rest(one) for one in runtimes],
        "undrawn": [undrawn(profile.operators, one.name) for one in runtimes],
        "rows": rows(whole, runtimes) if whole.operators else [],
        "besides": besides(whole, runtimes),
        "uncounted": sorted(kinds_missing.items()),
        "memory": _memory(profile.memory),
        "devices": [_device(one) for one in profile.devices],
        "preflight": _preflight(profile),
        "peaks": peaks(profile.probe),
        "capabilities": capabilities(profile.probe),
        "environment": flatten(profile.environment),
        "percent": percent,
    }


def _preflight(profile: Profile) -> Foreseen | None:
    return foreseen(profile.preflight, after=False) if profile.preflight else None


@dataclass(frozen=True)
class Run:
    """One line of the table of runtimes, in words; `tone` is "", "doubt" or "failed"."""

    name: str
    precision: str
    latency: str
    ends: str
    attributed: str
    counted: str
    share: str
    carried: bool
    tone: str
    notes: tuple[str, ...]


def _run(one: Timed) -> Run:
    blank = "–" if one.failed is not None else UNKNOWN
    unsure = "" if one.reliable or one.failed is not None or one.p50 is None else "≈ "
    notes = [f"failed: {one.failed}"] if one.failed is not None else []
    notes += ["unreliable"] if unsure else []
    low, high = CARRIED
    return Run(
        name=one.name,
        precision=one.precision or UNKNOWN,
        latency=blank if one.p50 is None else unsure + unit(one.p50, "ms"),
        ends=interval(one.low, one.high, significant),
        attributed=blank if one.attributed is None else unit(one.attributed, "ms"),
        counted=blank if one.counted is None else unit(one.counted, "ms"),
        share=blank if one.share is None else percent(one.share),
        carried=one.share is None or low <= one.share <= high,
        tone="failed" if one.failed is not None else "doubt" if unsure else "",
        notes=(*notes, *([one.note] if one.note else [])),
    )


def _rest(one: Timed) -> str:
    """The kernels that belong to no operator, by kind: "Reorder 0.120 ms, 3 more"."""
    told = [f"{kind} {unit(ms, 'ms')}" for kind, ms in one.rest[:5]]
    more = len(one.rest) - len(told)
    return ", ".join(told) + (f", {more} more kinds" if more > 0 else "")


def _memory(memory: Memory | None) -> list[tuple[str, str, str]]:
    """What the model holds: name, size, note."""
    if memory is None:
        return []
    found = [
        ("peak of the activations", size(memory.peak_bytes), f"at {memory.peak_at or UNKNOWN}"),
        ("weights", size(memory.weight_bytes), "all the time"),
    ]
    found += [
        (f"process of {name}", size(held), "measured: the most it held, interpreter and all")
        for name, held in memory.measured.items()
    ]
    return found


@dataclass(frozen=True)
class Fit:
    """One line of the table of devices; `state` is a class of the page."""

    device: Device
    state: str
    fits: str
    flash: tuple[str, float]
    ram: tuple[str, float]


def _device(device: Device) -> Fit:
    state = {True: "holds", False: "fails", None: "undecided"}[device.fits]
    fits = {True: "✓ fits", False: "✗ does not fit", None: "? cannot tell"}[device.fits]
    return Fit(device, state, fits, _use(*device.flash), _use(*device.ram))


def _use(needs: float | None, has: float | None) -> tuple[str, float]:
    """ "5.13 MB of 1.00 MB", and the length of its bar in percent."""
    length = min(100.0, 100 * needs / has) if needs is not None and has else 0.0
    return f"{size(needs)} of {size(has)}", length

"""What the machine was measured to do, as rows: a runtime and a number format each."""

from __future__ import annotations

from dataclasses import dataclass

from burnish.report._probe_record import Capability, Peak, Probe
from burnish.report._words import UNKNOWN, interval, significant, size, unit


@dataclass(frozen=True)
class Line:
    """A name, a figure, small print; whether the figure is to be relied on."""

    name: str
    figure: str
    notes: tuple[str, ...]
    reliable: bool


def peaks(probe: Probe | None) -> list[Line]:
    """Peaks of computing, then bandwidths, then what an operator costs before it computes."""
    if probe is None:
        return []
    lines = [_peak(one) for one in probe.peaks]
    for level in probe.bandwidth:
        holds = f"up to {size(level.num_bytes)}" if level.num_bytes else ""
        figure = unit(level.gb_per_s, "GB/s")
        lines.append(_line(f"reading from {level.name}", figure, level.reliable, holds))
    for one in probe.dispatch:
        figure = UNKNOWN if one.seconds is None else f"{significant(1e6 * one.seconds)} µs"
        lines.append(_line(f"dispatch of an operator, {one.runtime}", figure, one.reliable))
    return lines


def _peak(one: Peak) -> Line:
    figure = unit(one.gmacs, "· 10⁹ MAC/s")
    ends = interval(one.low, one.high, significant)
    return _line(f"{one.runtime} {one.dtype}", figure, one.reliable, ends, one.note or "")


def _line(name: str, figure: str, reliable: bool, *notes: str) -> Line:
    """A figure that is not known is not called unreliable besides."""
    sure = reliable or figure == UNKNOWN
    told = (*notes, "" if sure else "unreliable")
    return Line(name, figure if sure else f"≈ {figure}", tuple(n for n in told if n), sure)


@dataclass(frozen=True)
class Can:
    """What a runtime does with a number format; `tone` is a class of the page."""

    runtime: str
    dtype: str
    state: str
    tone: str
    speed: str
    told: str


TONES = {"native": "holds", "converted": "undecided", "emulated": "undecided", "refused": "fails"}


def capabilities(probe: Probe | None) -> list[Can]:
    """One row for each runtime and number format that was tried."""
    return [] if probe is None else [_can(one) for one in probe.capabilities]


def _can(one: Capability) -> Can:
    told = "; ".join(part for part in (one.reason, one.how) if part)
    state = one.state or UNKNOWN
    speed = "–" if one.speed is None else f"{significant(one.speed)}×"
    return Can(one.runtime, one.dtype, state, TONES.get(state, "none"), speed, told)

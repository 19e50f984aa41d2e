"""The roofline (Williams, Waterman and Patterson, 2009): how fast each operator could have been.

Across: multiply-accumulates for each byte of weights and activations. Up: multiply-accumulates a
second. Slanted lines are what a level of memory can feed, level ones the peaks of the runtime by
number format; the one the model ran in is drawn strong. A point is a kernel, named by its main
operator and as large as the time spent in it. Far below every line it waits for something else:
dispatch, or code that is not made for its shape.

A kernel multiplies what all the operators fused into it multiply, reads all their weights, and
reads and writes the activations of the main one; a second input of those fused (a shortcut's) is
not in it, since the record does not tell what feeds what. One that finds its input still in a cache
stands above memory's line. Kernels that multiply nothing have no place on logarithmic axes;
`undrawn` tells what share of the time is theirs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from burnish.report._drawing import (
    GREEN,
    NEUTRAL,
    RED,
    TITLE,
    clipped,
    html,
    lay_out,
    logarithmic,
    tinted,
)
from burnish.report._icicle import COLOURS
from burnish.report._probe_record import Peak, Probe
from burnish.report._profile_record import Operator, Timed
from burnish.report._tree import UNBOUND
from burnish.report._words import percent, significant, size

if TYPE_CHECKING:
    import plotly.graph_objects as go

DIV = "roofline"
NAMED = 6  # points that carry their names; the others tell theirs under the pointer
LONGEST = 26  # characters of a point's name
LARGEST, SMALLEST = 34.0, 6.0  # a point's diameter
DASHES = {"float32": "solid", "bfloat16": "dash", "int8": "dot"}
LEVEL_DASHES = ("dot", "dashdot", "dash", "longdash")
ASIDE, ABOVE = 1.2, 0.35  # distances of names (natural logarithms)
CLOSE = 1.3  # peaks closer than that have their names above and below


@dataclass(frozen=True)
class Kernel:
    """A main operator with what is fused into it, as one runtime ran it."""

    operator: Operator
    seconds: float
    macs: int
    num_bytes: int

    @property
    def intensity(self) -> float:
        """Multiply-accumulates per byte."""
        return self.macs / self.num_bytes

    @property
    def rate(self) -> float:
        """10^9 multiply-accumulates a second."""
        return self.macs / self.seconds / 1e9


def drawable(operators: Sequence[Operator], runtime: str) -> list[Kernel]:
    """The kernels that multiply and whose bytes and time are known, the longest first."""
    inside: dict[str, list[Operator]] = {}
    for one in operators:
        if runtime in one.owner:
            inside.setdefault(one.owner[runtime], []).append(one)
    found = []
    for one in operators:
        fused = inside.get(one.name, [])
        macs = sum(each.macs or 0 for each in (one, *fused))
        seconds = one.seconds.get(runtime, 0.0)
        if one.num_bytes and macs > 0 and seconds > 0:
            num_bytes = one.num_bytes + sum(each.weight_bytes or 0 for each in fused)
            found.append(Kernel(one, seconds, macs, num_bytes))
    return sorted(found, key=lambda kernel: -kernel.seconds)


def undrawn(operators: Sequence[Operator], runtime: str) -> float | None:
    """The share of the operators' time that is spent in those without a place in the figure."""
    total = sum(one.seconds.get(runtime, 0.0) for one in operators)
    shown = sum(kernel.seconds for kernel in drawable(operators, runtime))
    return (total - shown) / total if total > 0 else None


def roofline(
    operators: Sequence[Operator], runtimes: Sequence[Timed], probe: Probe | None, shown: int
) -> str | None:
    """The figure, `shown` (an index of `runtimes`) visible; None where no operator has a place."""
    import plotly.graph_objects as go

    points = {one.name: drawable(operators, one.name) for one in runtimes}
    if not any(points.values()):
        return None
    x, y = _ranges(points, runtimes, probe)
    drawing = go.Figure()
    for index, runtime in enumerate(runtimes):
        if not points[runtime.name]:
            continue
        for trace in (
            *_ceilings(runtime, probe, x, y),
            *_points(points[runtime.name], runtime.name),
        ):
            trace.update(visible=index == shown, meta=index)
            drawing.add_trace(trace)
    across, up = "multiply-accumulates per byte of weights and activations", "10⁹ MAC/s"
    lay_out(
        drawing,
        margin={"l": 70, "r": 24, "t": 64, "b": 56},
        xaxis={**logarithmic(*x), "title": {"text": across, "font": TITLE}},
        yaxis={**logarithmic(*y), "title": {"text": up, "font": TITLE}},
        legend={
            "orientation": "h",
            "y": 1.02,
            "yanchor": "bottom",
            "x": 0,
            "itemsizing": "constant",
        },
    )
    return html(drawing, DIV, 540)


def _ranges(
    points: dict[str, list[Kernel]], runtimes: Sequence[Timed], probe: Probe | None
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The same axes for all runtimes: all points, all peaks and the knees beneath them."""
    kernels = [one for found in points.values() for one in found]
    x, y = [one.intensity for one in kernels], [one.rate for one in kernels]
    for runtime in runtimes:
        peaks = _peaks(runtime.name, probe)
        y += [peak.gmacs or 0.0 for peak in peaks]
        x += [max(p.gmacs or 0.0 for p in peaks) / speed for _, speed in _levels(probe) if peaks]
    return (min(x) / 2, max(x) * 2.5), (min(y) / 2.5, max(y) * 2.2)


def _peaks(runtime: str, probe: Probe | None) -> tuple[Peak, ...]:
    return () if probe is None else probe.peaks_of(runtime)


def _levels(probe: Probe | None) -> list[tuple[str, float]]:
    """Names and GB/s, the fastest first."""
    if probe is None:
        return []
    known = [(_level(one), one.gb_per_s) for one in probe.bandwidth]
    found = [(name, speed) for name, speed in known if speed and 0 < speed < math.inf]
    return sorted(found, key=lambda one: -one[1])


def _level(one: Any) -> str:
    unsure = "" if one.reliable else ", unreliable"
    return f"{one.name} {significant(one.gb_per_s)} GB/s{unsure}"


def _ceilings(
    runtime: Timed, probe: Probe | None, x: tuple[float, float], y: tuple[float, float]
) -> list[go.Scatter]:
    import plotly.graph_objects as go

    peaks = sorted(_peaks(runtime.name, probe), key=lambda peak: peak.gmacs or 0.0)
    levels = _levels(probe)
    top = peaks[-1].gmacs if peaks else y[1]
    assert top is not None
    lines = []
    for number, (name, speed) in enumerate(levels):
        dash = LEVEL_DASHES[number] if number < len(levels) - 1 else "solid"
        lines.append(
            go.Scatter(
                x=[x[0], top / speed],
                y=[x[0] * speed, top],
                mode="lines",
                line={"color": GREEN, "width": 1.6, "dash": dash},
                name=escape(name),
                hoverinfo="skip",
            )
        )
    below = 0.0
    for peak in peaks:
        assert peak.gmacs is not None
        close, below = peak.gmacs / below < CLOSE if below else False, peak.gmacs
        own = peak.dtype == runtime.precision
        start = peak.gmacs / levels[0][1] if levels else x[0]
        lines.append(
            go.Scatter(
                x=[start, x[1]],
                y=[peak.gmacs, peak.gmacs],
                mode="lines+text",
                text=["", f"{escape(peak.dtype)} peak {_peak(peak)}  "],
                textposition="top left" if not close else "bottom left",
                line={
                    "color": RED if own else NEUTRAL,
                    "width": 2.2 if own else 1.2,
                    "dash": DASHES.get(peak.dtype, "dashdot"),
                },
                showlegend=False,
                hoverinfo="skip",
            )
        )
    return lines


def _peak(peak: Peak) -> str:
    shown = significant(peak.gmacs)
    return shown if peak.reliable else f"≈ {shown}, unreliable"


def _points(kernels: Sequence[Kernel], runtime: str) -> list[go.Scatter]:
    """One trace for each bound, so that the legend tells the colours."""
    import plotly.graph_objects as go

    longest = kernels[0].seconds
    total = sum(one.seconds for one in kernels)
    named = _apart(kernels)
    traces = []
    for bound, colour in COLOURS.items():
        mine = [one for one in kernels if one.operator.bound.get(runtime, UNBOUND) == bound]
        if not mine:
            continue
        diameters = [LARGEST * math.sqrt(one.seconds / longest) for one in mine]
        traces.append(
            go.Scatter(
                x=[one.intensity for one in mine],
                y=[one.rate for one in mine],
                mode="markers+text",
                text=[escape(_short(one.operator)) if one in named else "" for one in mine],
                textposition="top center",
                textfont={"size": 11},
                marker={
                    "color": tinted(colour, 0.72),
                    "size": [max(SMALLEST, diameter) for diameter in diameters],
                    "line": {"width": 1, "color": colour},
                },
                hovertext=[_hover(one, runtime, total) for one in mine],
                hoverinfo="text",
                name=f"{bound}-bound" if bound != UNBOUND else "bound unknown",
            )
        )
    return traces


def _apart(kernels: Sequence[Kernel]) -> list[Kernel]:
    """The longest of those whose names do not lie on one another."""
    found: list[Kernel] = []
    for one in kernels:
        if len(found) < NAMED and not any(_covers(one, other) for other in found):
            found.append(one)
    return found


def _covers(one: Kernel, other: Kernel) -> bool:
    aside = abs(math.log(one.intensity / other.intensity))
    above = abs(math.log(one.rate / other.rate))
    return aside < ASIDE and above < ABOVE


def _short(operator: Operator) -> str:
    return clipped(operator.module or operator.name, LONGEST, end=True)


def _hover(kernel: Kernel, runtime: str, total: float) -> str:
    reached = kernel.operator.share_of_peak.get(runtime)
    lines = [
        f"<b>{escape(clipped(kernel.operator.name, 90, end=True))}</b>",
        f"{significant(1e3 * kernel.seconds)} ms, "
        f"{percent(kernel.seconds / total)} of the kernels here",
        f"{significant(kernel.rate)} · 10⁹ MAC/s at {significant(kernel.intensity)} MACs per byte "
        f"({size(kernel.num_bytes)})",
        f"{percent(reached)} of the roof" if reached is not None else "",
    ]
    return "<br>".join(line for line in lines if line)

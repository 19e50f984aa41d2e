"""The frontier: quality against latency, each point with its intervals both ways.

Colour tells the runtime (Okabe and Ito's palette, 2008, told apart by colour-blind readers), the
marker the precision, and the number beside a point is its row in the table, so that the figure can
be read on paper. Points that another beats on every count are dimmed, never hidden. Text and grid
are left to the page, which knows whether it is light or dark.

Left out: points without a latency or without a quality; the page lists them beneath.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from burnish.report._drawing import (
    AXIS,
    BLUE,
    GREEN,
    GREY,
    NEUTRAL,
    ORANGE,
    PINK,
    RED,
    SKY,
    TITLE,
    YELLOW,
    html,
    lay_out,
    tinted,
)
from burnish.report._record import Candidate, Run
from burnish.report._words import Scale, interval, significant, speed, verdict_title

if TYPE_CHECKING:
    import plotly.graph_objects as go

DIV = "frontier"
COLOURS = {"eager": ORANGE, "onnxruntime": BLUE, "openvino": GREEN}
MORE_COLOURS = (SKY, GREY, YELLOW)
RING, LINE = PINK, RED
MARKERS = {"float32": "circle", "bfloat16": "square", "int8": "diamond", "mixed": "triangle-up"}
DIMMED = 0.42
LONGEST = 30  # characters of a metric's name that fit beside the axis
WIDE = 8.0  # from this ratio of slowest to fastest on, the latency axis is logarithmic


def drawable(candidate: Candidate) -> bool:
    """Whether it has a finite median latency and a finite quality."""
    latency, quality = candidate.latency, candidate.quality
    if candidate.failed or latency is None or quality is None:
        return False
    return _finite(latency.p50) and _finite(quality.value)


def figure(run: Run, numbers: Mapping[str, int], metric: Scale) -> str | None:
    """The figure as HTML with plotly.js inside, or None where no candidate can be drawn."""
    shown = [one for one in run.candidates if drawable(one)]
    if not shown:
        return None
    import plotly.graph_objects as go

    drawing = go.Figure()
    for candidate in shown:
        drawing.add_trace(_point(go, candidate, numbers[candidate.label], metric, run))
    for runtime, precision in sorted({(_runtime(c), _precision(c)) for c in shown}):
        drawing.add_trace(_legend(go, runtime, precision, run))
    pick = next((c for c in shown if run.pick and c.label == run.pick.label), None)
    if pick is not None:
        drawing.add_trace(_ring(go, pick, metric))
    if any(not c.frontier for c in shown):
        drawing.add_trace(_dimmed_legend(go))
    _add_limit(drawing, run, metric)
    _lay_out(drawing, shown, metric)
    return html(drawing, DIV)


def limit(run: Run, metric: Scale) -> tuple[float, float] | None:
    """The original model's figure on the validation data, and the worst that is allowed."""
    for candidate in run.candidates:
        verdict, quality = candidate.verdict, candidate.quality
        if verdict is None or quality is None:
            continue
        drop, change, value = verdict.max_drop, verdict.difference, quality.value
        if drop is None or change is None or value is None:
            continue
        sign = 1 if metric.higher_is_better else -1
        baseline = value - sign * change
        if _finite(baseline) and _finite(drop):
            return baseline, baseline - sign * drop
    return None


def _point(go: Any, candidate: Candidate, number: int, metric: Scale, run: Run) -> go.Scatter:
    latency, quality = candidate.latency, candidate.quality
    assert latency is not None and quality is not None
    assert latency.p50 is not None and quality.value is not None
    strength = 1.0 if candidate.frontier else DIMMED
    colour = tinted(_colour(_runtime(candidate), run), strength)
    factor = 100 if metric.percent else 1
    return go.Scatter(
        x=[latency.p50],
        y=[factor * quality.value],
        error_x=_bars(latency.p50, latency.low, latency.high, 1, colour),
        error_y=_bars(quality.value, quality.low, quality.high, factor, colour),
        mode="markers+text",
        text=[f"<b>{number}</b>" if candidate.frontier else str(number)],
        textposition="top right" if candidate.frontier else "bottom right",
        marker={"color": colour, "size": 12, "symbol": _symbol(candidate)},
        hovertext=[_hover(candidate, number, metric)],
        hoverinfo="text",
        showlegend=False,
    )


def _bars(
    value: float, low: float | None, high: float | None, factor: int, colour: str
) -> dict[str, Any]:
    if low is None or high is None or not (_finite(low) and _finite(high)):
        return {"visible": False}
    above, below = factor * max(0.0, high - value), factor * max(0.0, value - low)
    bars = {"type": "data", "symmetric": False, "array": [above], "arrayminus": [below]}
    return {**bars, "color": colour, "thickness": 1.2, "width": 3}


def _hover(candidate: Candidate, number: int, metric: Scale) -> str:
    latency, quality = candidate.latency, candidate.quality
    assert latency is not None and quality is not None
    ends = interval(latency.low, latency.high, significant)
    fast = speed(candidate.ratio)
    lines = [
        f"<b>{number}. {escape(candidate.label)}</b>",
        f"median {significant(latency.p50)} ms" + (f" ({ends})" if ends else ""),
        f"{escape(metric.name)} {metric.with_interval(quality)}",
        escape(verdict_title(candidate.verdict)),
    ]
    if fast.known:
        lines.append(f"{fast.text} the speed of the best float ({fast.ends})")
    return "<br>".join(lines)


def _legend(go: Any, runtime: str, precision: str, run: Run) -> go.Scatter:
    marker = {
        "color": _colour(runtime, run),
        "size": 11,
        "symbol": MARKERS.get(precision, "cross"),
    }
    name = escape(f"{runtime} {precision}")
    return go.Scatter(x=[None], y=[None], mode="markers", marker=marker, name=name)


def _ring(go: Any, pick: Candidate, metric: Scale) -> go.Scatter:
    assert pick.latency is not None and pick.quality is not None
    assert pick.quality.value is not None
    factor = 100 if metric.percent else 1
    return go.Scatter(
        x=[pick.latency.p50],
        y=[factor * pick.quality.value],
        mode="markers",
        marker={"symbol": "circle-open", "size": 27, "line": {"width": 3}, "color": RING},
        name="the pick",
        hoverinfo="skip",
    )


def _dimmed_legend(go: Any) -> go.Scatter:
    marker = {"color": tinted(NEUTRAL, DIMMED), "size": 11, "symbol": "circle"}
    name = "dimmed: not on the frontier"
    return go.Scatter(x=[None], y=[None], mode="markers", marker=marker, name=name)


def _add_limit(drawing: Any, run: Run, metric: Scale) -> None:
    found = limit(run, metric)
    if found is None:
        return
    baseline, worst = found
    factor = 100 if metric.percent else 1
    lines = ((baseline, "dot", NEUTRAL, "original"), (worst, "dash", LINE, "allowed"))
    for value, dash, colour, name in lines:
        above = (name == "original") == metric.higher_is_better
        drawing.add_hline(
            y=factor * value,
            line={"dash": dash, "color": colour, "width": 1.5},
            annotation={
                "text": f"{name}: {metric.value(value)}",
                "font": {"size": 12},
                "x": 1.0,
                "xanchor": "left",
                "yanchor": "bottom" if above else "top",
                "align": "left",
            },
        )


def _lay_out(drawing: Any, shown: Sequence[Candidate], metric: Scale) -> None:
    medians = [c.latency.p50 for c in shown if c.latency and c.latency.p50 and c.latency.p50 > 0]
    wide = len(medians) == len(shown) and max(medians) / min(medians) >= WIDE
    x: dict[str, Any] = {**AXIS, "title": {"text": "median latency per call, ms"}}
    if wide:
        ticks = _round_figures(min(medians), max(medians))
        x.update(type="log", tickvals=ticks, ticktext=[significant(tick, 1) for tick in ticks])
        x["title"] = {"text": "median latency per call, ms (log scale)"}
    else:
        x.update(rangemode="tozero")
    direction = "higher" if metric.higher_is_better else "lower"
    suffix = " %" if metric.percent else ""
    name = metric.name if len(metric.name) <= LONGEST else f"{metric.name[:LONGEST]}…"
    title = f"{escape(name)} on validation data ({direction} is better)"
    lay_out(
        drawing,
        margin={"l": 70, "r": 118, "t": 48, "b": 56},
        xaxis={**x, "title": {**x["title"], "font": TITLE}},
        yaxis={**AXIS, "title": {"text": title, "font": TITLE}, "ticksuffix": suffix},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )


def _round_figures(low: float, high: float) -> list[float]:
    """1, 2, 3, 5, 7 times the powers of ten that fall among the latencies, and one beyond."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [lead * 10.0**power for power in powers for lead in (1, 2, 3, 5, 7)]


def _runtime(candidate: Candidate) -> str:
    return candidate.runtime or "unknown runtime"


def _precision(candidate: Candidate) -> str:
    return candidate.precision or "unknown precision"


def _symbol(candidate: Candidate) -> str:
    return MARKERS.get(_precision(candidate), "cross")


def _colour(runtime: str, run: Run) -> str:
    if runtime in COLOURS:
        return COLOURS[runtime]
    others = sorted({_runtime(c) for c in run.candidates} - COLOURS.keys())
    return MORE_COLOURS[others.index(runtime) % len(MORE_COLOURS)]


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)

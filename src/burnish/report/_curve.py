"""Throughput against latency: a line for each split of the cores, a point for each batch on it.

Across is p99 where a ceiling on p99 was asked for, else the median. The answer has a ring, and the
limit that was asked for is a line. Points that are not to be relied on are hollow.
"""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Any

from burnish.report._drawing import (
    AXIS,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    RED,
    SKY,
    TITLE,
    YELLOW,
    html,
    lay_out,
    logarithmic,
)
from burnish.report._sweep_record import Point, Sweep
from burnish.report._words import significant

if TYPE_CHECKING:
    import plotly.graph_objects as go

DIV = "curve"
PALETTE = (BLUE, ORANGE, GREEN, SKY, RED, GREY, YELLOW)
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")
WIDE = 8.0  # from this ratio of largest to smallest on, an axis is logarithmic


def drawable(point: Point) -> bool:
    """Whether it ran, with both latencies and a throughput."""
    figures = (point.p50, point.p99, point.throughput)
    return point.failed is None and all(one is not None and 0 < one < math.inf for one in figures)


def curve(sweep: Sweep) -> str | None:
    """The figure; None where no combination can be drawn."""
    import plotly.graph_objects as go

    points = [one for one in sweep.points if drawable(one)]
    if not points:
        return None
    tail = sweep.best is not None and sweep.best.max_p99 is not None
    drawing = go.Figure()
    splits = list(dict.fromkeys((one.threads, one.streams) for one in points))
    for number, split in enumerate(splits):
        mine = [one for one in points if (one.threads, one.streams) == split]
        drawing.add_trace(_line(mine, number, tail))
    chosen = sweep.best.point or sweep.best.nearest if sweep.best else None
    if chosen is not None and drawable(chosen):
        name = "best" if sweep.best and sweep.best.point else "nearest"
        drawing.add_trace(_ring(chosen, name, tail))
    _axes(drawing, points, sweep, tail)
    _limits(drawing, sweep)
    return html(drawing, DIV)


def split_name(point: Point) -> str:
    """ "2 threads × 1 stream"."""
    threads = f"{_or_unknown(point.threads)} thread{'' if point.threads == 1 else 's'}"
    return f"{threads} × {_or_unknown(point.streams)} stream{'' if point.streams == 1 else 's'}"


def _or_unknown(value: int | None) -> str:
    return "?" if value is None else str(value)


def _across(point: Point, tail: bool) -> float:
    value = point.p99 if tail else point.p50
    assert value is not None
    return value


def _line(points: list[Point], number: int, tail: bool) -> go.Scatter:
    import plotly.graph_objects as go

    points = sorted(points, key=lambda one: one.batch or 0)
    colour = PALETTE[number % len(PALETTE)]
    symbol = SYMBOLS[number % len(SYMBOLS)]
    return go.Scatter(
        x=[_across(one, tail) for one in points],
        y=[one.throughput for one in points],
        mode="lines+markers+text",
        text=[_or_unknown(one.batch) for one in points],
        textposition="top center",
        textfont={"size": 11},
        line={"color": colour, "width": 1.4},
        marker={
            "color": colour,
            "size": 10,
            "symbol": [symbol if one.reliable else f"{symbol}-open" for one in points],
        },
        hovertext=[_hover(one) for one in points],
        hoverinfo="text",
        name=split_name(points[0]),
    )


def _hover(point: Point) -> str:
    lines = [
        f"<b>batch {_or_unknown(point.batch)}, {split_name(point)}</b>",
        f"{significant(point.throughput)} samples/s",
        f"p50 {significant(point.p50)} ms, p99 {significant(point.p99)} ms",
        escape(point.note or ""),
    ]
    return "<br>".join(line for line in lines if line)


def _ring(point: Point, name: str, tail: bool) -> go.Scatter:
    import plotly.graph_objects as go

    return go.Scatter(
        x=[_across(point, tail)],
        y=[point.throughput],
        mode="markers",
        marker={"symbol": "circle-open", "size": 27, "line": {"width": 3}, "color": PINK},
        name=name,
        hoverinfo="skip",
    )


def _limits(drawing: Any, sweep: Sweep) -> None:
    """The lines of what was asked; plotly places notes, but not lines, by logarithms."""
    best = sweep.best
    if best is None:
        return
    line = {"dash": "dash", "color": RED, "width": 1.5}
    note = {"showarrow": False, "font": {"size": 12}}
    layout = drawing.layout
    if best.max_p99:
        x = math.log10(best.max_p99) if layout.xaxis.type == "log" else best.max_p99
        drawing.add_vline(x=best.max_p99, line=line)
        text = f" p99 at most {significant(best.max_p99)} ms"
        drawing.add_annotation(
            x=x, y=0, yref="paper", text=text, xanchor="left", yanchor="bottom", **note
        )
    if best.min_throughput:
        y = math.log10(best.min_throughput) if layout.yaxis.type == "log" else best.min_throughput
        drawing.add_hline(y=best.min_throughput, line=line)
        text = f"at least {significant(best.min_throughput)} samples/s"
        drawing.add_annotation(
            x=1, xref="paper", y=y, text=text, xanchor="right", yanchor="bottom", **note
        )


def _axes(drawing: Any, points: list[Point], sweep: Sweep, tail: bool) -> None:
    best = sweep.best
    x = [_across(one, tail) for one in points] + [best.max_p99 or 0.0 if best else 0.0]
    y = [one.throughput or 0.0 for one in points] + [best.min_throughput or 0.0 if best else 0.0]
    across = f"{'p99' if tail else 'median'} latency per call, ms"
    lay_out(
        drawing,
        margin={"l": 70, "r": 40, "t": 64, "b": 56},
        xaxis=_axis(across, [one for one in x if one > 0]),
        yaxis=_axis("samples per second", [one for one in y if one > 0]),
        legend={"orientation": "h", "y": 1.06, "yanchor": "bottom", "x": 0},
    )


def _axis(title: str, values: list[float]) -> dict[str, Any]:
    low, high = min(values), max(values)
    if high / low < WIDE:
        return {**AXIS, "title": {"text": title, "font": TITLE}, "range": [0, 1.12 * high]}
    scale = {"text": f"{title} (log scale)", "font": TITLE}
    return {**logarithmic(low / 1.3, high * 1.4), "title": scale}

"""The memory alive at each operator, in the order of the graph, and where its peak is.

Only activations: the weights, which stay all the time, are a line of their own where they are not
so large that the activations would lie flat beneath it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from burnish.report._drawing import AXIS, BLUE, ORANGE, RED, TITLE, clipped, html, lay_out, tinted
from burnish.report._profile_record import Memory
from burnish.report._words import size

if TYPE_CHECKING:
    import plotly.graph_objects as go

DIV = "memory"
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
WITHIN = 4.0  # the weights are drawn up to so many times the peak of the activations
LONGEST = 40  # characters of the peak's name


def timeline(memory: Memory | None) -> str | None:
    """The figure; None where there is no timeline."""
    steps = [step for step in memory.timeline if _known(step[1])] if memory else []
    if memory is None or not steps:
        return None
    import plotly.graph_objects as go

    values = [value or 0.0 for _, value in steps]
    peak = max(values)
    weights = memory.weight_bytes or 0
    weights = weights if weights <= WITHIN * peak else 0
    factor, unit = next((u for u in UNITS if peak >= u[0]), UNITS[-1])
    drawing = go.Figure(_area(steps, values, factor))
    _mark(drawing, steps, values, factor)
    if weights:
        note = {"text": f"weights {size(weights)}", "font": {"size": 12}, "yanchor": "bottom"}
        line = {"color": ORANGE, "width": 1.6, "dash": "dash"}
        drawing.add_hline(y=weights / factor, line=line, annotation=note)
    across = {"text": "operator, in the order of the graph", "font": TITLE}
    up = {"text": f"activations, {unit}", "font": TITLE}
    top = 1.22 * max(peak, weights) / factor
    lay_out(
        drawing,
        margin={"l": 70, "r": 24, "t": 16, "b": 50},
        xaxis={**AXIS, "title": across, "range": [0.5, len(steps) + 0.5], "tickformat": "d"},
        yaxis={**AXIS, "title": up, "range": [0, top or 1.0]},
    )
    return html(drawing, DIV, 320)


def _area(
    steps: Sequence[tuple[str, float | None]], values: Sequence[float], factor: float
) -> go.Scatter:
    import plotly.graph_objects as go

    return go.Scatter(
        x=list(range(1, len(steps) + 1)),
        y=[value / factor for value in values],
        mode="lines",
        line={"color": BLUE, "width": 1.6, "shape": "hvh"},
        fill="tozeroy",
        fillcolor=tinted(BLUE, 0.25),
        hovertext=[f"{escape(clipped(n, 90, end=True))}<br>{size(v)}" for n, v in steps],
        hoverinfo="text",
        showlegend=False,
    )


def _mark(
    drawing: Any, steps: Sequence[tuple[str, float | None]], values: Sequence[float], factor: float
) -> None:
    """The peak, its size and the operator that is at it."""
    peak = max(values)
    at = values.index(peak)
    drawing.add_annotation(
        x=at + 1,
        y=peak / factor,
        text=f"peak {size(peak)}: {escape(clipped(steps[at][0], LONGEST, end=True))}",
        font={"size": 12},
        showarrow=True,
        arrowcolor=RED,
        ax=0,
        ay=-22,
        xanchor="left" if at < len(steps) / 2 else "right",
    )


def _known(value: float | None) -> bool:
    return value is not None and 0 <= value < math.inf

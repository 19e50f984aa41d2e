"""What every figure of a page has in common: colours, axes, and how it becomes HTML.

Colours are Okabe and Ito's palette (2008), told apart by colour-blind readers. Text and grid are
left to the page, which knows whether it is light or dark. Names that come from a file are escaped
by whoever puts them into a figure, since plotly reads tags in texts.
"""

from __future__ import annotations

import math
from typing import Any

from burnish.report._words import significant

ORANGE, BLUE, GREEN = "#E69F00", "#0072B2", "#009E73"
SKY, GREY, YELLOW = "#56B4E9", "#999999", "#F0E442"
PINK, RED = "#CC79A7", "#D55E00"
NEUTRAL, PALE = "#808080", "rgba(128,128,128,0.18)"
AXIS = {"gridcolor": "rgba(128,128,128,0.22)", "zeroline": False, "ticks": "outside"}
TITLE = {"size": 13}
ROOMY = 200.0  # a logarithmic axis is ticked at 1, 2 and 5 up to that ratio of its ends


def lay_out(drawing: Any, **layout: Any) -> None:
    """Give a figure the page's looks; `layout` is plotly's."""
    drawing.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#8a929b", "activecolor": BLUE},
        hoverlabel={"align": "left"},
    )
    drawing.update_layout(**layout)


def html(drawing: Any, name: str, height: int = 460, *, tools: bool = True) -> str:
    """A figure as HTML, with or without plotly's buttons, for a page that holds `plotly_js`."""
    made = drawing.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        default_height=f"{height}px",
        config={
            **({} if tools else {"displayModeBar": False}),
            "displaylogo": False,
            "responsive": True,
            "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"],
        },
    )
    return str(made)


def plotly_js() -> str:
    """The library that draws the figures, to go into the page as it is."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def logarithmic(low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis from `low` to `high`, with ticks at 1, 2 and 5 where there is room."""
    leads = (1, 2, 5) if high / low < ROOMY else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [lead * 10.0**power for power in powers for lead in leads]
    return {
        **AXIS,
        "type": "log",
        "range": [math.log10(low), math.log10(high)],
        "tickvals": ticks,
        "ticktext": [significant(tick, 1) for tick in ticks],
    }


def clipped(text: str, longest: int, *, end: bool = False) -> str:
    """`text`, or so much of it as fits, with an ellipsis for its end (for its beginning)."""
    if len(text) <= longest:
        return text
    return f"…{text[-longest + 1 :]}" if end else f"{text[: longest - 1]}…"


def tinted(colour: str, strength: float) -> str:
    """ "#0072B2" as a colour of that opacity."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{strength})"

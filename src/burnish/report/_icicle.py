"""Where the time goes: modules inside modules, each as long as the time spent in it.

An icicle (Kruskal and Landwehr, 1983) reads from left to right; a click opens a module. The colour
is what bounds most of the time in it. What the runtime counted but no operator of the model asked
for, and what it did not count at all (calls, waiting), stand beside the modules, so that the whole
is the latency that was measured.

There is one icicle for each runtime in the figure; the page shows one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from burnish.report._drawing import BLUE, GREY, ORANGE, PALE, PINK, clipped, html, lay_out
from burnish.report._profile_record import Timed
from burnish.report._spent import UNCOUNTED, Spent
from burnish.report._tree import UNBOUND, Part
from burnish.report._words import percent, significant

if TYPE_CHECKING:
    import plotly.graph_objects as go

DIV = "icicle"
COLOURS = {"compute": BLUE, "memory": ORANGE, "overhead": PINK, UNBOUND: GREY}
LEVELS = 5  # shown at once
LONGEST = 34  # characters of a name in a box


@dataclass(frozen=True)
class _Box:
    id: str
    above: str
    label: str
    value: float
    colour: str
    text: str
    hover: str


def icicle(whole: Part, runtimes: Sequence[Timed], shown: int) -> str | None:
    """The figure, `shown` (an index of `runtimes`) visible; None where nothing was timed."""
    import plotly.graph_objects as go

    drawing = go.Figure()
    for index, runtime in enumerate(runtimes):
        if whole.seconds(runtime.name):
            drawing.add_trace(_trace(whole, runtime, index, index == shown))
    if not drawing.data:
        return None
    text = {"minsize": 10, "mode": "hide"}
    lay_out(drawing, margin={"l": 2, "r": 2, "t": 8, "b": 2}, uniformtext=text)
    return html(drawing, DIV, 560, tools=False)


def _trace(whole: Part, runtime: Timed, index: int, visible: bool) -> go.Icicle:
    import plotly.graph_objects as go

    spent = Spent.of(whole, runtime)
    name = runtime.name
    whole_run = f"{escape(clipped(name, LONGEST))} · {_ms(spent.total)}"
    boxes = [_Box("0", "", name, 0.0, PALE, whole_run, whole_run)]
    boxes += _boxes(whole, name, "0", spent)
    for beside, seconds, told in spent.beside:
        hover = f"<b>{beside}</b><br>{_ms(seconds)}, {percent(spent.share(seconds))}<br>{told}"
        colour = COLOURS["overhead" if beside == UNCOUNTED else UNBOUND]
        boxes.append(
            _Box(beside, "0", beside, seconds, colour, _text(beside, spent.share(seconds)), hover)
        )
    return go.Icicle(
        ids=[box.id for box in boxes],
        parents=[box.above for box in boxes],
        labels=[escape(clipped(box.label, LONGEST)) for box in boxes],
        values=[box.value for box in boxes],
        branchvalues="remainder",
        hovertext=[box.hover for box in boxes],
        hoverinfo="text",
        textinfo="text",
        text=[box.text for box in boxes],
        marker={
            "colors": [box.colour for box in boxes],
            "line": {"width": 0.6, "color": "rgba(255,255,255,0.75)"},
        },
        leaf={"opacity": 1},
        tiling={"orientation": "h", "pad": 0},
        pathbar={"thickness": 22},
        maxdepth=LEVELS,
        sort=False,
        visible=visible,
        meta=index,
    )


def _boxes(part: Part, runtime: str, above: str, spent: Spent) -> Iterator[_Box]:
    """What is beneath a part; a module's own value is nothing, its length that of its parts."""
    for number, one in enumerate(part.parts):
        seconds = one.seconds(runtime)
        if not seconds:
            continue
        bounds = one.bounds(runtime)
        colour = COLOURS[max(bounds, key=lambda bound: bounds[bound])]
        value = 0.0 if one.parts else seconds
        hover = _hover(one, runtime, seconds, spent)
        own = f"{above}.{number}"
        yield _Box(
            own, above, one.name, value, colour, _text(one.name, spent.share(seconds)), hover
        )
        yield from _boxes(one, runtime, own, spent)


def _text(name: str, share: float | None) -> str:
    return f"{escape(clipped(name, LONGEST))} · {percent(share)}"


def _hover(part: Part, runtime: str, seconds: float, spent: Spent) -> str:
    bounds = sorted(part.bounds(runtime).items(), key=lambda one: -one[1])
    told = [f"{bound} {percent(share / seconds)}" for bound, share in bounds if share > 0]
    reached = part.share_of_peak(runtime)
    what = f"{len(part.operators)} operators" if part.parts else part.operators[0].kind
    lines = [
        f"<b>{escape(clipped(part.path, 90, end=True))}</b>",
        f"{_ms(seconds)}, {percent(spent.share(seconds))} of the whole",
        f"bound by {', '.join(told)}",
        f"{percent(reached)} of the roof" if reached is not None else "",
        escape(clipped(what, 60)),
    ]
    return "<br>".join(line for line in lines if line)


def _ms(seconds: float) -> str:
    return f"{significant(1e3 * seconds)} ms"

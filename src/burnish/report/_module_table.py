"""The table by module: a row for each part of the model, those deep inside folded at first.

As many levels are open as keep the table to a screen or two; a click opens a row, and paper shows
what is open. A sum over a module is of what is known of its operators; where one is not known, the
sum says that it is a lower bound.

Left out: a column for each runtime's bound and share of the roof. Those of one runtime are shown,
the one that the figures show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from burnish.report._profile_record import Operator, Timed
from burnish.report._profile_sentences import macs_of
from burnish.report._spent import TOLD, Spent
from burnish.report._tree import UNBOUND, Part
from burnish.report._words import count, large, percent, significant, size

ROWS = 40  # that are open at first
CLEAR = 0.95  # a bound that holds for so much of a part's time is told without its share
BLANK = "–"


@dataclass(frozen=True)
class Cell:
    """What is told of a row for one runtime: share of the time, of the roof, and the bound."""

    share: str
    length: float
    roof: str
    bound: str
    told: str


@dataclass(frozen=True)
class Row:
    """One part. `up` is the row above it in the tree; `times` are (text, explanation)."""

    number: int
    up: int
    depth: int
    name: str
    path: str
    kind: str
    opens: bool
    open: bool
    hidden: bool
    macs: str
    parameters: str
    weights: str
    activations: str
    intensity: str
    times: tuple[tuple[str, str], ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Beside:
    """Time that is no operator's: a name, what it is, milliseconds and share by runtime."""

    name: str
    told: str
    times: tuple[str, ...]
    shares: tuple[str, ...]


def rows(whole: Part, runtimes: Sequence[Timed]) -> list[Row]:
    """All parts, parents before what is in them; the first is the whole model."""
    totals = [Spent.of(whole, one) for one in runtimes]
    levels = _levels(whole)
    found = []
    for number, up, depth, part in _numbered(whole):
        macs, missing = macs_of(part.operators)
        moved = _known([one.num_bytes for one in part.operators])
        found.append(
            Row(
                number=number,
                up=up,
                depth=depth,
                name=part.name,
                path=part.path,
                kind="" if part.parts else part.operators[0].kind if part.operators else "",
                opens=bool(part.parts),
                open=depth < levels,
                hidden=depth > levels,
                macs=_macs(macs, missing, len(part.operators)),
                parameters=_sum([one.num_parameters for one in part.operators], large),
                weights=_sum([one.weight_bytes for one in part.operators], size),
                activations=_sum([_moved(one) for one in part.operators], size),
                intensity=BLANK if missing or not moved else significant(macs / moved),
                times=tuple(_time(part, one) for one in runtimes),
                cells=tuple(
                    _cell(part, one, spent) for one, spent in zip(runtimes, totals, strict=True)
                ),
            )
        )
    return found


def besides(whole: Part, runtimes: Sequence[Timed]) -> list[Beside]:
    """The rows beneath the modules, so that each runtime's column adds up to a run."""
    totals = [Spent.of(whole, one) if whole.seconds(one.name) else None for one in runtimes]
    there = {name for spent in totals if spent for name, _, _ in spent.beside}
    found = []
    for name, told in TOLD.items():
        if name not in there:
            continue
        values = [
            next((s for other, s, _ in spent.beside if other == name), None) if spent else None
            for spent in totals
        ]
        times = tuple(BLANK if s is None else significant(1e3 * s) for s in values)
        shares = tuple(
            BLANK if s is None or spent is None else percent(spent.share(s))
            for s, spent in zip(values, totals, strict=True)
        )
        found.append(Beside(name, told, times, shares))
    return found


def _levels(whole: Part) -> int:
    """The depth down to which rows are open; the modules of the first level always are."""
    depths = [depth for depth, _ in whole.walk()]
    deepest = max(depths)
    fitting = [level for level in range(1, deepest + 1) if sum(d <= level for d in depths) <= ROWS]
    return max(fitting, default=1)


def _numbered(whole: Part) -> Iterator[tuple[int, int, int, Part]]:
    """Each part with its number, that of its parent (-1: none), and its depth."""
    above: list[int] = []
    for number, (depth, part) in enumerate(whole.walk()):
        del above[depth:]
        yield number, above[-1] if above else -1, depth, part
        above.append(number)


def _moved(operator: Operator) -> int | None:
    parts = (operator.input_bytes, operator.output_bytes)
    return None if any(part is None for part in parts) else sum(part or 0 for part in parts)


def _known(values: Sequence[int | None]) -> int | None:
    """The sum, None where one is not known."""
    return None if any(one is None for one in values) else sum(one or 0 for one in values)


def _sum(values: Sequence[int | None], show: Callable[[float], str]) -> str:
    known = [one for one in values if one is not None]
    if values and not known:
        return BLANK
    return f"{'≥ ' if len(known) < len(values) else ''}{show(sum(known))}"


def _macs(macs: int, missing: int, number: int) -> str:
    if number and missing == number:
        return "unknown"
    return f"{'≥ ' if missing else ''}{large(macs)}"


def _time(part: Part, runtime: Timed) -> tuple[str, str]:
    """Milliseconds; "fused" or a dash where there is no kernel of its own."""
    owners = part.owners(runtime.name)
    if owners:
        more = f" and {count(len(owners) - 1)} more" if len(owners) > 1 else ""
        return "fused", f"in the kernel of {owners[0]}{more}"
    seconds = part.seconds(runtime.name)
    if seconds is None:
        return BLANK, f"{runtime.name} counted no kernel of it"
    return significant(1e3 * seconds), ""


def _cell(part: Part, runtime: Timed, spent: Spent) -> Cell:
    seconds = part.seconds(runtime.name)
    if not seconds:
        return Cell(BLANK, 0.0, BLANK, BLANK, "")
    share = spent.share(seconds)
    reached = part.share_of_peak(runtime.name)
    bounds = sorted(part.bounds(runtime.name).items(), key=lambda one: -one[1])
    (first, most), *_ = bounds
    told = ", ".join(f"{bound} {percent(s / seconds)}" for bound, s in bounds if s > 0)
    if first == UNBOUND:
        bound = BLANK if most >= CLEAR * seconds else f"unknown {percent(most / seconds)}"
    else:
        bound = first if most >= CLEAR * seconds else f"{first} {percent(most / seconds)}"
    return Cell(
        share=percent(share),
        length=100 * (share or 0.0),
        roof=BLANK if reached is None else percent(reached),
        bound=bound,
        told=told,
    )

"""Which layer gets which of its options: an integer program under one limit, solved exactly.

Each layer has a few options (precisions, ranks), each with a cost (milliseconds, bytes,
multiply-accumulates) and a loss (what the layer alone does to the outputs with it). One option is
chosen for every layer, so that the sum of one of the two is least while the sum of the other stays
within a limit: a multiple-choice knapsack. Losses are summed as if layers did not know of each
other, which is true to first order.

An option has a *form*: what its values are outside of the layer (floats, integers). Where two
neighbours have different forms, values are converted between them: a *seam* has a price of its own,
paid where it is open. With x a choice of 0 or 1 and y what is paid of a seam, y >= x - x' for each
form; y needs no integrality, for it lies on one of its bounds in every optimum.

Solved by HiGHS (Huangfu and Hall, 2018) through scipy, within its tolerances: so the program is
scaled by the limit and by the best value found, options that no solution can hold are left out, and
what comes back is added up again in exact arithmetic before it counts. Mixed precision by integer
programming is that of HAWQ-V3 (Yao, Dong, Zheng, Gholami et al., 2021).

Left out: several limits at once; what two layers lose together (a quadratic program).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from burnish.errors import Infeasible, InvalidInput

Minimise = Literal["loss", "cost"]
_EXACT = 1e-12  # how far a sum of the caller's may stray from the same sum in another order
_TIGHTER = 1e-7  # of the limit: what a solution that HiGHS let through by its tolerance is cut by
_ATTEMPTS = 6
_SECONDS = 30.0  # for HiGHS; `Allocation.gap` tells what was left open


@dataclass(frozen=True)
class Option:
    """What one of a layer's options costs and loses; its form is what neighbours see of it."""

    cost: float
    loss: float
    form: str = ""


@dataclass(frozen=True)
class Seam:
    """A cost that is paid where two layers have options of different forms."""

    one: str
    other: str
    cost: float


@dataclass(frozen=True)
class Allocation:
    """An option for every layer, by name.

    `cost` is the sum with all open seams, `seams` the part of it they are, `loss` the sum of the
    losses. `gap` is how far the minimised sum may be above the least possible, as a share of it: 0
    but where a gap was allowed, or HiGHS ran out of time.
    """

    chosen: Mapping[str, str]
    cost: float
    loss: float
    seams: float = 0.0
    gap: float = 0.0


Options = Mapping[str, Mapping[str, Option]]


def allocate(
    options: Options,
    limit: float,
    minimise: Minimise = "loss",
    seams: Sequence[Seam] = (),
    gap: float = 0.0,
) -> Allocation:
    """The best option for every layer under a limit.

    Args:
        options: for each layer, its options by name.
        limit: the most that the sum which is not minimised may be; infinity for none.
        minimise: "loss" under a limit on the cost, or "cost" under a limit on the loss.
        seams: what layers cost together; two of one pair add up.
        gap: how far above the least possible the sum may be, as a share of it: thousands of
            options with losses that are estimates take seconds with 0.001, minutes with 0.

    Raises:
        InvalidInput: no layers, a layer without options, a cost or loss that is NaN, negative or
            infinite (with the layer's name), a limit that is NaN or negative, a gap that is no
            share, a seam of a layer that is not there.
        Infeasible: no allocation keeps the limit; `result` is the nearest, the `Allocation` with
            the least of what is limited.
    """
    _check(options, limit, minimise, seams)
    if not 0 <= gap < 1:
        raise InvalidInput(f"allocate(gap={gap}): a share, from 0 up to but not including 1")
    program = _Program(options, seams, gap)
    limited = "loss" if minimise == "cost" else "cost"
    found = program.solve(minimise, limit)
    if found is None:
        nearest = program.solve(limited, math.inf)
        assert nearest is not None
        least = getattr(nearest, limited)
        raise Infeasible(
            f"no allocation has a {limited} of at most {limit:.6g}: the least that "
            f"{len(options)} layers can have is {least:.6g}; raise the limit to that, or allow "
            "further options",
            nearest,
        )
    return found


def total(options: Options, chosen: Mapping[str, str], seams: Sequence[Seam] = ()) -> Allocation:
    """The sums of a given allocation."""
    taken = {layer: options[layer][chosen[layer]] for layer in options}
    opened = math.fsum(s.cost for s in seams if taken[s.one].form != taken[s.other].form)
    cost = math.fsum([*(option.cost for option in taken.values()), opened])
    loss = math.fsum(option.loss for option in taken.values())
    return Allocation({layer: chosen[layer] for layer in options}, cost, loss, opened)


class _Program:
    """The integer program over all layers: a variable for each option, then one for each seam."""

    def __init__(self, options: Options, seams: Sequence[Seam], gap: float) -> None:
        self.options = options
        self.gap = gap
        self.seams = [s for s in seams if s.cost > 0 and s.one != s.other]

    def solve(self, minimise: str, limit: float) -> Allocation | None:
        """The best allocation, or None where none keeps the limit."""
        limited = "loss" if minimise == "cost" else "cost"
        room, best = limit, None
        for _ in range(_ATTEMPTS):
            found = self._best(minimise, limited, room)
            if found is None:
                break
            value = getattr(found, limited)
            if value <= limit * (1 + _EXACT):
                best = found
                break
            room -= (value - limit) + _TIGHTER * limit
        return best

    def _best(self, minimise: str, limited: str, room: float) -> Allocation | None:
        """Solved, then again in the scale of the best value, until that is all there is."""
        found, most = None, math.inf
        for _ in range(_ATTEMPTS):
            again = self._solved(minimise, limited, room, most)
            if again is None or (found and getattr(again, minimise) >= getattr(found, minimise)):
                break
            found, most = again, getattr(again, minimise)
            if most == 0 or (self.gap and again.gap <= self.gap):
                break
        return found

    def _solved(self, minimise: str, limited: str, room: float, most: float) -> Allocation | None:
        """One call of HiGHS, without the options that alone break the limit or the best value."""
        slack = 1 + _EXACT
        columns = [
            (layer, name, option)
            for layer, choices in self.options.items()
            for name, option in choices.items()
            if getattr(option, limited) <= room * slack
            and getattr(option, minimise) <= most * slack
        ]
        if {layer for layer, _, _ in columns} != set(self.options):
            return None
        values = {
            name: np.array([getattr(option, name) for _, _, option in columns] + paid)
            for name, paid in (
                ("cost", [seam.cost for seam in self.seams]),
                ("loss", [0.0] * len(self.seams)),
            )
        }
        constraints = self._constraints(columns)
        if math.isfinite(room):
            scale = room or 1.0
            rows = csr_array(values[limited][None, :] / scale)
            constraints.append(LinearConstraint(rows, -np.inf, room / scale))
        size = len(columns) + len(self.seams)
        whole = np.array([1] * len(columns) + [0] * len(self.seams))
        objective = values[minimise]
        unit = most if math.isfinite(most) else float(objective.max(initial=0.0))
        result = milp(
            objective / (unit or 1.0),
            integrality=whole,
            bounds=Bounds(np.zeros(size), np.ones(size)),
            constraints=constraints,
            options={"mip_rel_gap": self.gap, "time_limit": _SECONDS},
        )
        if result.x is None:
            return None
        chosen: dict[str, str] = {}
        largest: dict[str, float] = {}
        for (layer, name, _), share in zip(columns, result.x, strict=False):
            if share > largest.get(layer, -1.0):
                chosen[layer], largest[layer] = name, share
        found = total(self.options, chosen, self.seams)
        gap = float(result.mip_gap or 0.0) if result.status == 1 or self.gap else 0.0
        return Allocation(found.chosen, found.cost, found.loss, found.seams, gap)

    def _constraints(self, columns: Sequence[tuple[str, str, Option]]) -> list[LinearConstraint]:
        """One option a layer; a seam is paid where the forms of its layers differ."""
        size = len(columns) + len(self.seams)
        place = {layer: row for row, layer in enumerate(self.options)}
        ones = np.ones(len(columns))
        rows = [place[layer] for layer, _, _ in columns]
        choose = csr_array((ones, (rows, range(len(columns)))), shape=(len(place), size))
        found = [LinearConstraint(choose, 1.0, 1.0)]
        forms: dict[str, dict[str, list[int]]] = {}
        for index, (layer, _, option) in enumerate(columns):
            forms.setdefault(layer, {}).setdefault(option.form, []).append(index)
        entries: list[tuple[int, int, float]] = []
        row = 0
        for number, seam in enumerate(self.seams):
            for form, mine in forms[seam.one].items():
                # paid - (one has the form) + (the other has it) >= 0
                entries.append((row, len(columns) + number, 1.0))
                entries += [(row, index, -1.0) for index in mine]
                entries += [(row, index, 1.0) for index in forms[seam.other].get(form, ())]
                row += 1
        if entries:
            at, columns_, weights = (list(part) for part in zip(*entries, strict=True))
            matrix = csr_array((weights, (at, columns_)), shape=(row, size))
            found.append(LinearConstraint(matrix, 0.0, np.inf))
        return found


def _check(options: Options, limit: float, minimise: str, seams: Sequence[Seam]) -> None:
    if minimise not in ("loss", "cost"):
        raise InvalidInput(f"allocate(minimise={minimise!r}): 'loss' or 'cost'")
    if math.isnan(limit) or limit < 0:
        raise InvalidInput(f"allocate(limit={limit}): a number of 0 or more, or infinity")
    if not options:
        raise InvalidInput("allocate: there are no layers to choose for")
    for layer, choices in options.items():
        if not choices:
            raise InvalidInput(f"allocate: the layer {layer!r} has no option")
        for name, option in choices.items():
            check_figure(option.cost, "cost", layer, name)
            check_figure(option.loss, "loss", layer, name)
    for seam in seams:
        for end in (seam.one, seam.other):
            if end not in options:
                raise InvalidInput(f"allocate: a seam names {end!r}, which is no layer")
        check_figure(seam.cost, "cost", f"{seam.one} with {seam.other}", "a seam")


def check_figure(value: float, what: str, layer: str, option: str) -> float:
    """The value. InvalidInput where a cost or loss is NaN, negative, infinite or no number."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating | np.integer):
        raise InvalidInput(
            f"the {what} of {layer} in {option} is {value!r}: give a number of 0 or more"
        )
    if not (math.isfinite(value) and value >= 0):
        raise InvalidInput(
            f"the {what} of {layer} in {option} is {value}: give a finite number of 0 or more; "
            "leave an option out where it has none"
        )
    return float(value)

"""How wide each group stays and which blocks go: an integer program under one limit on cost.

A *unit* is a group of coupled channels with a few levels, each a number of channels kept and what
removing the others does to the outputs. A *drop* is a block that may go whole, at a price of the
same kind. What is paid are *terms*: a table over the levels of one unit, or of two (a convolution:
its inputs' group times its outputs'), paid unless the block it stands in is dropped. The sum of
errors is made least while the sum of terms keeps the limit.

With x a level chosen, z a block dropped, the product of two choices is y with the right sums:

    sum_j y[i, j] = x[i] - w[i],   sum_i y[i, j] = x'[j] - w'[j],   sum_i w[i] = z,   0 <= w <= x

so y needs no integrality, and the program's relaxation is tight where units hang together as a tree
(each inner width of a residual network beside the width of its stage). Solved by HiGHS (Huangfu and
Hall, 2018) through scipy.

Left out: what two removals do together beyond the sum of what each does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from burnish.errors import Infeasible

Array = npt.NDArray[np.float64]
_SECONDS, _GAP = 60.0, 1e-3
_ROOM = 1e-6  # of the limit, by which HiGHS may overstep it


@dataclass(frozen=True, eq=False)
class Priced:
    """A table of costs over the levels of at most two units, not paid where `block` is dropped."""

    units: tuple[str, ...]
    table: Array
    block: str | None = None


@dataclass(frozen=True)
class Solution:
    """The number of each unit's level, the blocks that go, and the two sums."""

    levels: Mapping[str, int]
    dropped: tuple[str, ...]
    cost: float
    error: float


def solve(
    units: Mapping[str, Sequence[float]],
    drops: Mapping[str, float],
    terms: Sequence[Priced],
    limit: float,
) -> Solution:
    """The least error whose cost keeps the limit.

    Args:
        units: for each unit the error of each of its levels; the first is that of keeping all.
        drops: the error of dropping each block.
        terms: what is paid.
        limit: the most that all terms may sum up to.

    Raises:
        Infeasible: no choice keeps the limit; `result` is the `Solution` of least cost.
    """
    program = _Program(units, drops, terms)
    found = program.best(limit)
    if found is None:
        least = program.best(None)
        assert least is not None
        raise Infeasible(
            f"at most {limit:.4g} cannot be reached: the least that the groups and blocks which "
            f"may lose something can cost is {least.cost:.4g}",
            result=least,
        )
    return found


class _Program:
    """Columns and rows, collected, then solved."""

    def __init__(
        self,
        units: Mapping[str, Sequence[float]],
        drops: Mapping[str, float],
        terms: Sequence[Priced],
    ) -> None:
        self.units, self.drops, self.terms = units, drops, terms
        self.errors: list[float] = []
        self.costs: list[float] = []
        self.whole: list[int] = []
        self.rows: list[tuple[dict[int, float], float]] = []
        self.constant = 0.0
        self.level = {name: self._columns(errors, whole=True) for name, errors in units.items()}
        self.drop = {name: self._columns([error], whole=True)[0] for name, error in drops.items()}
        for columns in self.level.values():
            self.rows.append((dict.fromkeys(columns, 1.0), 1.0))
        self.lost: dict[tuple[str, str], list[int]] = {}
        for term in terms:
            self._pay(term)

    def _columns(self, errors: Sequence[float], whole: bool = False) -> list[int]:
        first = len(self.errors)
        self.errors += errors
        self.costs += [0.0] * len(errors)
        self.whole += [int(whole)] * len(errors)
        return list(range(first, len(self.errors)))

    def _pay(self, term: Priced) -> None:
        if not term.units:
            self.constant += float(term.table)
            if term.block is not None:
                self.costs[self.drop[term.block]] -= float(term.table)
        elif len(term.units) == 1:
            (name,) = term.units
            for column, cost in zip(self.level[name], term.table, strict=True):
                self.costs[column] += cost
            for column, cost in zip(self._lost(name, term.block), term.table, strict=False):
                self.costs[column] -= cost
        else:
            self._pair(term)

    def _pair(self, term: Priced) -> None:
        product = np.array(self._columns([0.0] * term.table.size)).reshape(term.table.shape)
        for column, cost in zip(product.ravel(), term.table.ravel(), strict=True):
            self.costs[column] = float(cost)
        for name, lines in zip(term.units, (product, product.T), strict=True):
            lost = self._lost(name, term.block)
            for index, (column, line) in enumerate(zip(self.level[name], lines, strict=True)):
                row = dict.fromkeys((int(c) for c in line), 1.0) | {column: -1.0}
                if lost:
                    row[lost[index]] = 1.0
                self.rows.append((row, 0.0))

    def _lost(self, name: str, block: str | None) -> list[int]:
        """The columns that hold a unit's level where a block is dropped, 0 elsewhere."""
        if block is None:
            return []
        if (name, block) not in self.lost:
            columns = self._columns([0.0] * len(self.units[name]))
            self.lost[name, block] = columns
            self.rows.append((dict.fromkeys(columns, 1.0) | {self.drop[block]: -1.0}, 0.0))
            for column, level in zip(columns, self.level[name], strict=True):
                # w <= x, with a slack that takes up the difference.
                slack = self._columns([0.0])[0]
                self.rows.append(({column: 1.0, level: -1.0, slack: 1.0}, 0.0))
        return self.lost[name, block]

    def best(self, limit: float | None) -> Solution | None:
        """The least error under a limit, None where there is none; the least cost without one."""
        costs = np.array(self.costs)
        scale = np.abs(costs).max() or 1.0
        objective = np.array(self.errors) if limit is not None else costs / scale
        peak = np.abs(objective).max() or 1.0
        constraints: list[Any] = [self._equalities()]
        if limit is not None:
            room = (limit * (1 - _ROOM) - self.constant) / scale
            constraints.append(LinearConstraint(costs[None] / scale, -np.inf, room))
        found = milp(
            objective / peak,
            integrality=np.array(self.whole),
            bounds=Bounds(0, 1),
            constraints=constraints,
            options={"time_limit": _SECONDS, "mip_rel_gap": _GAP},
        )
        return None if found.x is None else self._read(found.x)

    def _equalities(self) -> LinearConstraint:
        places = [
            (index, column, value)
            for index, (row, _) in enumerate(self.rows)
            for column, value in row.items()
        ]
        index, column, value = zip(*places, strict=True)
        shape = (len(self.rows), len(self.errors))
        sides = [side for _, side in self.rows]
        return LinearConstraint(csr_array((value, (index, column)), shape=shape), sides, sides)

    def _read(self, x: Array) -> Solution:
        """The choices, and the sums added up again from the tables."""
        levels = {name: int(np.argmax(x[columns])) for name, columns in self.level.items()}
        dropped = tuple(name for name, column in self.drop.items() if x[column] > 0.5)
        cost = sum(
            float(term.table[tuple(levels[name] for name in term.units)])
            for term in self.terms
            if term.block not in dropped
        )
        error = sum(self.units[name][level] for name, level in levels.items())
        return Solution(levels, dropped, cost, error + sum(self.drops[name] for name in dropped))

"""Why a layer has the precision it has: its exchange rate against that of the budget.

A cheaper option of a layer saves cost and adds loss; loss for each unit saved is its *rate*. Under
a limit on the sum, the layers with low rates become cheap and those with high rates stay precise:
the highest rate that was accepted is the *price* the limit pays. An integer program departs from
that order where the last layers do not fit, or where a seam would cost more than a layer saves; the
reason says so.

Left out: the dual of the relaxed program, which is a price, too, but of no layer that exists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from burnish.core import Allocation, Option


@dataclass(frozen=True)
class AllocationRow:
    """One layer of an allocation: its precision, what that costs and loses, and why."""

    layer: str
    precision: str
    cost: float
    loss: float
    why: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return dict(vars(self))


def explain(
    options: Mapping[str, Mapping[str, Option]],
    allocation: Allocation,
    unit: str,
    refused: Mapping[str, Mapping[str, str]],
) -> tuple[AllocationRow, ...]:
    """A row for each layer, in the order of `options`.

    Args:
        options: what there was to choose from.
        allocation: what was chosen.
        unit: of the cost, as "ms".
        refused: for each layer, the precisions it cannot have, with reasons.
    """
    price = paid(options, allocation)
    rows = []
    for layer, choices in options.items():
        precision = allocation.chosen[layer]
        mine = choices[precision]
        why = _why(choices, precision, price, unit, refused.get(layer, {}))
        rows.append(AllocationRow(layer, precision, mine.cost, mine.loss, why))
    return tuple(rows)


def paid(options: Mapping[str, Mapping[str, Option]], allocation: Allocation) -> float:
    """The price: the highest loss for a unit of cost that was accepted; 0 where nothing was."""
    rates = [
        _rate(choices[_precise(choices)], choices[allocation.chosen[layer]])
        for layer, choices in options.items()
    ]
    return max([rate for rate in rates if rate is not None], default=0.0)


def _precise(choices: Mapping[str, Option]) -> str:
    return min(choices, key=lambda name: (choices[name].loss, choices[name].cost))


def _rate(precise: Option, other: Option) -> float | None:
    """Loss added for a unit of cost saved; None where nothing is saved."""
    saved = precise.cost - other.cost
    return (other.loss - precise.loss) / saved if saved > 0 else None


def _why(
    choices: Mapping[str, Option],
    precision: str,
    price: float,
    unit: str,
    refused: Mapping[str, str],
) -> str:
    precise = _precise(choices)
    best, mine = choices[precise], choices[precision]
    barred = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
    if len(choices) == 1:
        return barred or "the only precision allowed"
    if precision != precise:
        rate = _rate(best, mine)
        if rate is None:
            return f"saves nothing against {precise}: what is beside it has this form"
        return f"saves {best.cost - mine.cost:.3g} {unit} for {mine.loss - best.loss:.2g} of loss"
    cheaper = {name: rate for name, o in choices.items() if (rate := _rate(best, o)) is not None}
    if not cheaper:
        return "nothing else is cheaper"
    name = min(cheaper, key=cheaper.__getitem__)
    other, rate = choices[name], cheaper[name]
    told = (
        f"{name} would save {best.cost - other.cost:.3g} {unit} for "
        f"{other.loss - best.loss:.2g} of loss, {rate:.2g} a unit"
    )
    if rate > price:
        return f"{told}: dearer than what the limit asks for ({price:.2g})"
    return f"{told}: what it saves was not needed, or a seam would cost it"

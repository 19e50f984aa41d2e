"""Getting quality back: which layers to take out of int8, and in which order.

*Free reverts*: operators that the runtime's own counters show slower in int8 than in float go back
to float before anything else is asked: it costs no time and can only help quality.

*The ladder*, where the verdict is not good enough: each operator's worth is the error it puts on
the outputs when it alone is in int8 (simulated, on a few calibration samples), per microsecond that
going back to float costs on this machine (the median, where no counter tells). Operators
are reverted in that order, in doubling steps until the verdict holds, then by bisection to the
shortest prefix that holds; then each one is put back in turn, the least worthy first, and stays in
int8 if the verdict still holds. Every rung is exported and answers the validation data; only the
ordering is simulated.

Left out: reverting pairs for what they do together (the output error is taken one at a time).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from burnish.auto._trial import Built, Trial, Variant
from burnish.auto._workshop import Workshop
from burnish.errors import Unsupported

SLOWER = 1.2
LEAST_COST = 1e-7


@dataclass(frozen=True)
class Sought:
    """What the ladder found: the lightest good variant (or None), and what was tried."""

    found: Built | None
    steps: tuple[str, ...]


def slower_in_int8(
    floats: Mapping[str, float], int8: Mapping[str, float], operators: Sequence[str]
) -> tuple[str, ...]:
    """The int8 operators that take longer than in float on this machine."""
    return tuple(
        name
        for name in operators
        if name in floats and name in int8 and int8[name] > SLOWER * floats[name]
    )


def climb(
    workshop: Workshop,
    start: Built,
    cost: Mapping[str, float],
    time_left: Callable[[], bool],
    enough: Callable[[Built], bool],
) -> Sought:
    """Revert operators of an int8 variant until its quality is good enough.

    Args:
        workshop: builds and answers variants.
        start: the variant that does not hold.
        cost: seconds an operator loses by going back to float, where known.
        time_left: asked before each rung.
        enough: whether a variant's verdict will do.
    """
    if len(start.int8) < 2:
        return Sought(None, ("its one int8 operator is all there is to revert",))
    try:
        order = _ordered(workshop, start, cost)
    except Unsupported as error:
        return Sought(None, (f"the operators could not be ranked: {error}",))
    steps = [f"ranked {len(order)} operators, first {', '.join(order[:3])}"]
    tried: dict[int, Built | None] = {}

    def holds(count: int) -> bool:
        if count not in tried:
            variant = start.variant.but((*start.variant.exclude, *order[:count]))
            tried[count] = workshop.build(variant)
            built = tried[count]
            state = "failed" if built is None else built.verdict["state"]
            steps.append(f"{count} operator{'s' * (count != 1)} in float: {state}")
        built = tried[count]
        return built is not None and enough(built)

    low, count = 0, 1
    while count < len(order) and time_left() and not holds(count):
        low, count = count, min(2 * count, len(order) - 1)
        if count == low:
            break
    if count not in tried:
        return Sought(None, (*steps, "no time was left to revert more"))
    if not holds(count):
        return Sought(None, tuple(steps))
    while count - low > 1 and time_left():
        middle = (low + count) // 2
        low, count = (low, middle) if holds(middle) else (middle, count)
    best = tried[count]
    assert best is not None
    return _put_back(workshop, start, best, order[:count], time_left, enough, steps)


def _put_back(
    workshop: Workshop,
    start: Built,
    best: Built,
    reverted: Sequence[str],
    time_left: Callable[[], bool],
    enough: Callable[[Built], bool],
    steps: list[str],
) -> Sought:
    """Try each reverted operator in int8 again, the least worthy first."""
    needed = list(reverted)
    for name in reversed(reverted):
        if len(needed) == 1 or not time_left():
            break
        rest = [other for other in needed if other != name]
        built = workshop.build(start.variant.but((*start.variant.exclude, *rest)))
        if built is not None and enough(built):
            needed, best = rest, built
            steps.append(f"{name} turned out unnecessary: back in int8")
    return Sought(best, tuple(steps))


def _ordered(workshop: Workshop, start: Built, cost: Mapping[str, float]) -> list[str]:
    usual = statistics.median(cost.values()) if cost else LEAST_COST
    worth = {
        row.operator: row.output_error / max(cost.get(row.operator, usual), LEAST_COST)
        for row in workshop.sensitivity(start.variant).rows
    }
    return sorted(start.int8, key=lambda name: (-worth.get(name, 0.0), name))


def reverted_cost(floats: Mapping[str, float], int8: Mapping[str, float]) -> dict[str, float]:
    """Seconds each operator loses by going back to float."""
    return {name: floats[name] - int8[name] for name in int8 if name in floats}


def fastest(trials: Sequence[Trial], seconds: Mapping[str, float]) -> Trial | None:
    """The trial with the least time; None where none was timed."""
    timed = [trial for trial in trials if trial.label in seconds]
    return min(timed, key=lambda trial: seconds[trial.label]) if timed else None


def without(variant: Variant, names: Sequence[str]) -> Variant:
    """A variant with further operators in float."""
    return variant.but((*variant.exclude, *names))

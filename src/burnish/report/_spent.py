"""How a run divides: the operators, the kernels that belong to none, what was not counted.

The parts add up to the whole runs that took turns with the counted ones, or to what was counted
where that is more (counters cost time themselves). On a machine that is busy in between, both
differ from the latency of the race.
"""

from __future__ import annotations

from dataclasses import dataclass

from burnish.report._profile_record import Timed
from burnish.report._tree import Part

LEAST = 1e-3  # a share of the whole below which a remainder is rounding
UNOWNED = "kernels of no operator"
UNCOUNTED = "outside the kernels"
TOLD = {
    UNOWNED: "copies, layout changes and the like that the runtime put in",
    UNCOUNTED: "calls, dispatch and waiting: latency that no kernel's counter holds",
}


@dataclass(frozen=True)
class Spent:
    """Seconds of one run in one runtime."""

    total: float
    operators: float
    unowned: float
    uncounted: float
    bounds: dict[str, float]

    @classmethod
    def of(cls, whole: Part, runtime: Timed) -> Spent:
        """Divide the run of a runtime that has times for operators."""
        operators = whole.seconds(runtime.name) or 0.0
        counted = max(operators, (runtime.counted or 0.0) / 1e3)
        total = max(counted, (runtime.whole or 0.0) / 1e3)
        least = LEAST * total
        unowned, uncounted = counted - operators, total - counted
        return cls(
            total=total,
            operators=operators,
            unowned=unowned if unowned > least else 0.0,
            uncounted=uncounted if uncounted > least else 0.0,
            bounds=whole.bounds(runtime.name),
        )

    @property
    def beside(self) -> tuple[tuple[str, float, str], ...]:
        """What is no operator's: name, seconds, what it is."""
        found = ((UNOWNED, self.unowned), (UNCOUNTED, self.uncounted))
        return tuple((name, seconds, TOLD[name]) for name, seconds in found if seconds > 0)

    def share(self, seconds: float) -> float | None:
        """A part of the total."""
        return seconds / self.total if self.total > 0 else None

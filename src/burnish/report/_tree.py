"""The operators of a profile, folded into the user's own modules.

A module with a single thing in it (a wrapper, a convolution of its own class) is one part together
with it, so that depth on the page means a choice. Parts keep the order of the graph. What a part
costs is the sum over the operators beneath it, of those figures that are known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from burnish.report._profile_record import BOUNDS, Operator

DEEPEST = 40  # module names beyond that many dots stay in one piece
ROOT = "the whole model"
UNBOUND = "unknown"


@dataclass(frozen=True)
class Part:
    """A module or an operator: its name below its parent, and its full name."""

    name: str
    path: str
    operators: tuple[Operator, ...]
    parts: tuple[Part, ...]

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Part]]:
        """This part and all beneath it, each with its depth, parents first."""
        yield depth, self
        for part in self.parts:
            yield from part.walk(depth + 1)

    def seconds(self, runtime: str) -> float | None:
        """Time of a run; None where no operator beneath has any."""
        known = [one.seconds[runtime] for one in self.operators if runtime in one.seconds]
        return sum(known) if known else None

    def bounds(self, runtime: str) -> dict[str, float]:
        """Seconds by what bounds the operators: "compute", "memory", "overhead", "unknown"."""
        found = dict.fromkeys((*BOUNDS, UNBOUND), 0.0)
        for one in self.operators:
            seconds = one.seconds.get(runtime, 0.0)
            found[one.bound.get(runtime, UNBOUND)] += seconds
        return found

    def share_of_peak(self, runtime: str) -> float | None:
        """The least time the machine's peaks allow over the time it took; None where unknown."""
        timed = [
            (one.seconds[runtime], one.share_of_peak[runtime])
            for one in self.operators
            if runtime in one.seconds and runtime in one.share_of_peak
        ]
        total = sum(seconds for seconds, _ in timed)
        return sum(seconds * share for seconds, share in timed) / total if total > 0 else None

    def owners(self, runtime: str) -> tuple[str, ...]:
        """The operators outside this part into whose kernels all of it was fused."""
        if any(runtime in one.seconds and one.seconds[runtime] > 0 for one in self.operators):
            return ()
        return tuple(dict.fromkeys(o for one in self.operators if (o := one.owner.get(runtime))))


def tree(operators: Sequence[Operator]) -> Part:
    """All operators under one root; a wrapper around the whole model is no level of its own."""
    placed = [(_steps(one), one) for one in operators]
    parts = _parts("", placed)
    if len(parts) == 1 and parts[0].parts:
        parts = parts[0].parts
    return Part(ROOT, "", tuple(operators), parts)


def _steps(operator: Operator) -> list[str]:
    return [step for step in operator.module.split(".", DEEPEST) if step]


def _parts(path: str, placed: Sequence[tuple[list[str], Operator]]) -> tuple[Part, ...]:
    """The parts of the module at `path`, given the names that lead on to each operator."""
    inside: dict[str, list[tuple[list[str], Operator]]] = {}
    order: list[str | Operator] = []
    for steps, operator in placed:
        if not steps:
            order.append(operator)
            continue
        if steps[0] not in inside:
            order.append(steps[0])
        inside.setdefault(steps[0], []).append((steps[1:], operator))
    return tuple(
        Part(_below(path, one.name), one.name, (one,), ())
        if isinstance(one, Operator)
        else _module(path, f"{path}.{one}" if path else one, inside[one])
        for one in order
    )


def _module(above: str, path: str, placed: Sequence[tuple[list[str], Operator]]) -> Part:
    parts = _parts(path, placed)
    if len(parts) == 1:
        (only,) = parts
        return Part(_below(above, only.path), only.path, only.operators, only.parts)
    return Part(_below(above, path), path, tuple(operator for _, operator in placed), parts)


def _below(above: str, path: str) -> str:
    """What stands at `path` is called this within `above`: "conv:conv2d"."""
    return path.removeprefix(above).lstrip(".:") or path

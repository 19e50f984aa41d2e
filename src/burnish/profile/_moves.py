"""From what was measured to answers: what another form, fewer channels or compiling would do.

What was run whole is answered with what the race found. For fewer channels, a run's time is taken
apart: operators that representatives stand for are scaled by their representative's factor;
operators of the same kinds beside them by the mean factor; everything else (elementwise operators,
handing over) by a range that is stated here. The ends of the range take all uncertain parts at
their ends at once, so it is wider than the error to expect.

Left out: what compiling gains by fusing the operators between layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from burnish.bench import Ratio
from burnish.profile._preflight import ESTIMATED, IMPOSSIBLE, MEASURED, Answer, worth
from burnish.profile._representatives import Representative, weighted
from burnish.profile._samples import Compiled, Sample
from burnish.profile._shape import OpShape

# What half the width does to all that no representative stands for: at best, probably, at worst.
_REST_AT_HALF = (0.45, 0.6, 0.95)
_SAMPLING = 0.15  # how far a representative's factor may be off where it stands


@dataclass(frozen=True)
class Taken:
    """Seconds of one whole run in a runtime, and those of its operators by name."""

    total: float
    operators: Mapping[str, float]


@dataclass(frozen=True)
class Known:
    """What an estimate for one runtime starts from.

    Attributes:
        runtime: its name.
        taken: a whole run in float.
        base: its time over that of what runs now.
        chosen: the representatives.
        shapes: every operator of the model by its name.
        sampled: the representatives as timed; None where that failed.
    """

    runtime: str
    taken: Taken
    base: Ratio
    chosen: Sequence[Representative]
    shapes: Mapping[str, OpShape]
    sampled: Sample | None


def scaled(
    taken: Taken,
    chosen: Sequence[Representative],
    shapes: Mapping[str, OpShape],
    factors: Sequence[float],
    rest: tuple[float, float, float],
) -> Ratio:
    """Time of a run after its representatives change by `factors`, over its time before.

    Args:
        taken: the run.
        chosen: the representatives.
        shapes: every operator of the model.
        factors: of each representative.
        rest: what happens to everything else: at best, probably, at worst.
    """
    named = {name for one in chosen for name in one.names}
    weights = [math.fsum(taken.operators.get(n, 0.0) for n in one.names) for one in chosen]
    known = math.fsum(w * factor for w, factor in zip(weights, factors, strict=True))
    alike = math.fsum(
        seconds
        for name, seconds in taken.operators.items()
        if name not in named and weighted(shapes[name])
    )
    mean = known / math.fsum(weights) if math.fsum(weights) else 1.0
    remaining = max(0.0, taken.total - math.fsum(weights) - alike)
    best, probably, worst = (part * remaining for part in rest)
    value = known + mean * alike + probably
    low = (1 - _SAMPLING) * known + min(factors) * alike + best
    high = (1 + _SAMPLING) * known + max(factors) * alike + worst
    total = taken.total
    # Reliable as far as it goes: the range says how far.
    return Ratio(value / total, min(low, value) / total, max(high, value) / total, False)


def times(one: Ratio, other: Ratio) -> Ratio:
    """A factor of a factor, the ends multiplied."""
    return Ratio(
        one.value * other.value,
        one.low * other.low,
        one.high * other.high,
        one.unreliable or other.unreliable,
    )


def half_answer(known: Known) -> Answer:
    """Would fewer channels help?"""
    chosen, sampled = known.chosen, known.sampled
    move, question = f"half the channels in {known.runtime}", "Would fewer channels help?"
    if not chosen or sampled is None:
        told = "No layer here has channels to halve that could be timed"
        return Answer(move, question, told, None, IMPOSSIBLE, "Read off the model", False)
    factors = [h / f for h, f in zip(sampled.half, sampled.float32, strict=True)]
    own = scaled(known.taken, chosen, known.shapes, factors, _REST_AT_HALF)
    factor = times(own, known.base)
    basis = (
        f"{_number(len(chosen))} at half their width take {min(factors):.2f} to "
        f"{max(factors):.2f} of their time; quality is to be trained back"
    )
    return Answer(move, question, worth(factor), factor, ESTIMATED, basis, False)


def compiled_answer(found: Compiled) -> Answer:
    """Would compiling help?"""
    move, question = "compiled by inductor", "Would compiling help?"
    if found.factor is None:
        told = f"Not here: {found.reason}"
        return Answer(move, question, told, None, IMPOSSIBLE, "Tried on a few operators")
    wide = Ratio(
        found.factor.value,
        found.factor.low * (1 - 2 * _SAMPLING),
        found.factor.high * (1 + _SAMPLING),
        found.factor.unreliable,
    )
    basis = (
        f"A few operators alone, compiled in {found.seconds:.0f} s; what it would gain by fusing "
        "the operators between them is not in it"
    )
    return Answer(move, question, worth(wide), wide, ESTIMATED, basis)


def raced_answer(
    move: str, question: str, factor: Ratio, basis: str, advisable: bool = True
) -> Answer:
    """What the race of whole models found."""
    return Answer(move, question, worth(factor), factor, MEASURED, basis, advisable)


def _number(count: int) -> str:
    return "1 representative operator" if count == 1 else f"{count} representative operators"

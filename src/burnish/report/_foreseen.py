"""The preflight in words: each prediction, and how good it was.

A prediction is a range of speeds. It held where the speed found afterwards lies in it; that the
interval of what was found merely touches the range is not enough, since a range may be made wide.
How far off the middle was is told in percent of the time, whether it held or not.

Left out: a prediction without a range. It is shown, and called neither right nor wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from burnish.report._preflight import Answer, Preflight
from burnish.report._ratio import Ratio
from burnish.report._words import UNKNOWN, duration, percent, significant, speed

ALIKE = {True: "no difference to expect", False: "no difference shown"}


@dataclass(frozen=True)
class Judged:
    """`state` is a class of the page: "holds", "fails" or "none"."""

    state: str
    text: str
    note: str


@dataclass(frozen=True)
class Row:
    """One move; the factors as (speed, small print)."""

    answer: Answer
    first: bool
    predicted: tuple[str, tuple[str, ...]]
    found: tuple[str, tuple[str, ...]]
    judged: Judged


@dataclass(frozen=True)
class Foreseen:
    """A preflight for the page; without `judged` nothing has been measured since."""

    lead: str
    rows: tuple[Row, ...]
    judged: bool
    reference: str


def foreseen(preflight: Preflight, *, after: bool) -> Foreseen:
    """The preflight's rows, the move advised first before the others, and a sentence on them.

    Args:
        preflight: what was predicted.
        after: whether the run it was made for is over, so that "not tried" means something.
    """
    first = preflight.first_move
    ordered = sorted(preflight.answers, key=lambda one: one.move != first)
    rows = tuple(
        Row(
            answer=one,
            first=one.move == first,
            predicted=_factor(one, one.factor, ahead=True),
            found=_factor(one, one.found, ahead=False),
            judged=judge(one),
        )
        for one in ordered
    )
    judged = after or bool(preflight.followed)
    lead = " ".join((_advice(preflight), *([_record(preflight)] if judged else [])))
    return Foreseen(lead, rows, judged, preflight.reference or "an unnamed artifact")


def judge(answer: Answer) -> Judged:
    """How good one prediction was."""
    factor, found = answer.factor, answer.found
    if found is None or found.value is None:
        return Judged("none", "not tried", "")
    if answer.how == "not possible":
        return Judged("fails", "✗ was possible", "")
    off = error(answer)
    if factor is None or off is None:
        return Judged("none", "nothing was predicted", "")
    towards = "longer" if off > 0 else "shorter"
    note = f"{percent(abs(off))} {towards}" if round(abs(off), 3) else "to the point"
    if factor.low is None or factor.high is None:
        return Judged("none", "no range was given", note)
    if found.unreliable:
        return Judged("none", "cannot tell", "what was found is unreliable")
    if factor.low <= found.value <= factor.high:
        return Judged("holds", "✓ in the range", note)
    return Judged("fails", "✗ outside the range", note)


def error(answer: Answer) -> float | None:
    """Time found over time predicted, less one: positive where it is slower than predicted."""
    factor, found = answer.factor, answer.found
    if factor is None or not factor.value or found is None or found.value is None:
        return None
    return found.value / factor.value - 1


def _factor(answer: Answer, value: Ratio | None, *, ahead: bool) -> tuple[str, tuple[str, ...]]:
    if ahead and answer.how == "not possible":
        return "not possible", ()
    told = speed(value)
    if not told.known:
        return (UNKNOWN if ahead else "–"), ()
    note = ALIKE[ahead] if told.state == "alike" else told.note
    return told.text, tuple(part for part in (told.ends, note, answer.how if ahead else "") if part)


def _advice(preflight: Preflight) -> str:
    took = "" if preflight.seconds is None else f" The answers took {duration(preflight.seconds)}."
    if preflight.first_move is None:
        return f"No move was found worth trying first.{took}"
    chosen = next((one for one in preflight.answers if one.move == preflight.first_move), None)
    told = speed(chosen.factor if chosen else None)
    times = ""
    if told.known:
        ends = f" ({told.ends})" if told.ends else ""
        times = f", foreseen at {told.text} the speed of now{ends}"
    return f"To try first: {preflight.first_move}{times}.{took}"


def _record(preflight: Preflight) -> str:
    followed = preflight.followed
    if not followed:
        return "Nothing was measured since that would tell how good the predictions are."
    states = [judge(one).state for one in followed]
    held, judged = states.count("holds"), len(states) - states.count("none")
    were = "was" if len(followed) == 1 else "were"
    sentences = [
        f"{len(followed)} of {len(preflight.answers)} predictions {were} put to the test: "
        f"{held} held, {judged - held} did not"
        f"{f', {len(states) - judged} cannot be judged' if judged < len(states) else ''}."
    ]
    errors = [abs(off) for one in followed if (off := error(one)) is not None]
    if errors:
        sentences.append(
            f"The time was off by {percent(median(errors))} in the median"
            f" and by {percent(max(errors))} at worst."
        )
    return " ".join((*sentences, *_best(preflight)))


def _best(preflight: Preflight) -> list[str]:
    """Whether the move advised first was the best of those tried."""
    first = preflight.first_move
    tried = {one.move: one.found.value for one in preflight.followed if one.found and one.advisable}
    known = {move: value for move, value in tried.items() if value is not None and value > 0}
    if not known:
        return []
    best = min(known, key=lambda move: known[move])
    reached = f"{best} came to {significant(1 / known[best])}×"
    if first is None:
        return [f"Yet {reached}."] if known[best] < 1 else []
    if first not in known:
        return [f"The move advised first, {first}, was not tried; of those tried, {reached}."]
    if best == first:
        return ["The move advised first was the best of those tried."]
    return [
        f"The move advised first was not the best of those tried: {reached}, "
        f"against {significant(1 / known[first])}×."
    ]

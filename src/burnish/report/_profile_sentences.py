"""What a profile's page says first: the fastest runtime, where its time goes, what bounds it.

Runtimes whose intervals overlap are not called faster than one another. A figure that is missing
leaves its clause out; a timing that its own profile calls unreliable is said to be that.
"""

from __future__ import annotations

from collections.abc import Sequence

from burnish.report._profile_record import Operator, Profile, Timed
from burnish.report._sentences import Headline
from burnish.report._spent import UNOWNED, Spent
from burnish.report._tree import UNBOUND, Part
from burnish.report._words import interval, large, percent, significant, size, unit

LARGE = 0.3  # a part with more of the time than that is told by what is in it
NAMED = 3


def by_speed(runtimes: Sequence[Timed]) -> list[Timed]:
    """The runtimes that ran, the fastest first; those without a latency last."""
    ran = [one for one in runtimes if one.failed is None]
    return sorted(ran, key=lambda one: (one.p50 is None, one.p50 or 0.0))


def headline(profile: Profile, whole: Part, shown: Timed | None) -> Headline:
    """The first screen; `shown` is the runtime whose operators it tells of."""
    runtimes = [one for one in by_speed(profile.runtimes) if one.p50 is not None]
    best = runtimes[0] if runtimes else None
    sure = best is not None and best.reliable
    badge = "Profile" if sure else "Profile: not to be relied on" if best else "Profile: not timed"
    sentence = " ".join(_compared(runtimes)) or _untimed(profile)
    told = busy(whole, shown) if shown else "No runtime has times for its operators."
    return Headline(
        badge,
        "good" if sure else "warn" if best else "bad",
        _title(runtimes),
        sentence,
        told,
        _tiles(profile, whole, best, shown),
    )


def _title(runtimes: Sequence[Timed]) -> str:
    if not runtimes:
        return "No runtime could be timed"
    best = runtimes[0]
    took = unit(best.p50, "ms")
    alike = [one.name for one in runtimes if one is not best and _alike(best, one)]
    if alike:
        return f"{_listed([best.name, *alike])} are as fast as can be told: {took}"
    if len(runtimes) == 1:
        return f"{took} in {best.name}"
    return f"{best.name} is the fastest: {took}"


def _alike(best: Timed, other: Timed) -> bool:
    return best.high is None or other.low is None or other.low <= best.high


def _compared(runtimes: Sequence[Timed]) -> list[str]:
    """How much slower the others are, and what is not to be relied on."""
    told = []
    if len(runtimes) > 1 and runtimes[0].p50:
        others = [
            f"{one.name} takes {significant((one.p50 or 0.0) / runtimes[0].p50)} times as long "
            f"({unit(one.p50, 'ms')})"
            for one in runtimes[1:]
        ]
        told.append(f"Against {runtimes[0].name}, {_listed(others)}.")
    elif runtimes:
        told.append("No other runtime was timed.")
    unsure = [one.name for one in runtimes if not one.reliable]
    if unsure:
        told.append(
            f"Unreliable: the {'time' if len(unsure) == 1 else 'times'} of {_listed(unsure)}."
        )
    return told


def _untimed(profile: Profile) -> str:
    failed = [f"{one.name}: {one.failed}" for one in profile.runtimes if one.failed is not None]
    return "; ".join(failed) or "Why is not written down."


def busy(whole: Part, runtime: Timed) -> str:
    """A sentence on the modules that take the time."""
    spent = Spent.of(whole, runtime)
    parts = busiest(whole, runtime.name)
    if not parts:
        return f"{runtime.name} has no times for operators."
    told = [f"{part.path} ({percent(spent.share(s))})" for part, s in parts[:NAMED]]
    others = parts[NAMED:]
    if others:
        rest = percent(spent.share(sum(seconds for _, seconds in others)))
        told.append(f"{len(others)} other part{'s' if len(others) > 1 else ''} ({rest})")
    return f"In {runtime.name} the time goes to {_listed(told)}."


def bound(whole: Part, runtime: Timed) -> str:
    """Sentences on what bounds the operators, and on the time that is not theirs."""
    spent = Spent.of(whole, runtime)
    return " ".join([_bound(spent), *_beside(spent)])


def kinds(whole: Part, runtime: str) -> str:
    """The kinds of operators that take the time: "conv2d 91 %, hardtanh 5 %"."""
    found: dict[str, float] = {}
    for one in whole.operators:
        found[one.kind] = found.get(one.kind, 0.0) + one.seconds.get(runtime, 0.0)
    total = sum(found.values())
    ranked = sorted((item for item in found.items() if item[1] > 0), key=lambda one: -one[1])
    told = [f"{kind} {percent(seconds / total)}" for kind, seconds in ranked[: 2 * NAMED]]
    more = len(ranked) - len(told)
    return ", ".join(told) + (f", {more} more" if more > 0 else "")


def busiest(whole: Part, runtime: str) -> list[tuple[Part, float]]:
    """Parts that together are the model, the longest first, none of them overwhelming."""
    found = [(whole, whole.seconds(runtime) or 0.0)]
    total = found[0][1]
    while total > 0:
        largest, seconds = max(found, key=lambda one: (bool(one[0].parts), one[1]))
        if not largest.parts or seconds <= LARGE * total:
            break
        found.remove((largest, seconds))
        found += [(part, s) for part in largest.parts if (s := part.seconds(runtime))]
    return sorted(found, key=lambda one: -one[1]) if total > 0 else []


def _bound(spent: Spent) -> str:
    known = sorted(spent.bounds.items(), key=lambda one: -one[1])
    told = [(percent(spent.share(s)), name) for name, s in known if s > 0 and name != UNBOUND]
    if not told:
        return (
            "What bounds the operators is not known: that takes a probe of the machine "
            "(burnish profile --probe)."
        )
    (share, name), *others = told
    first = f"{share} of the time is bound by {name}"
    return f"{_listed([first, *(f'{share} by {name}' for share, name in others)])}."


def _beside(spent: Spent) -> list[str]:
    return [
        f"{percent(spent.share(seconds))} passes {'in ' if name == UNOWNED else ''}{name} ({what})."
        for name, seconds, what in spent.beside
    ]


def _tiles(
    profile: Profile, whole: Part, best: Timed | None, shown: Timed | None
) -> tuple[tuple[str, str, str], ...]:
    return (
        _latency_tile(best),
        _bound_tile(whole, shown),
        _work_tile(profile, whole, shown),
        _memory_tile(profile),
    )


def _latency_tile(best: Timed | None) -> tuple[str, str, str]:
    if best is None:
        return "median latency", "unknown", "nothing was timed"
    ends = interval(best.low, best.high, significant)
    notes = [ends, "" if best.reliable else "unreliable"]
    shown = unit(best.p50, "ms")
    return (
        f"median latency, {best.name}",
        shown if best.reliable else f"≈ {shown}",
        "; ".join(note for note in notes if note) or "no interval",
    )


def _bound_tile(whole: Part, shown: Timed | None) -> tuple[str, str, str]:
    name = "the time is bound by"
    spent = Spent.of(whole, shown) if shown else None
    if (
        spent is None
        or spent.total <= 0
        or not any(seconds for bound, seconds in spent.bounds.items() if bound != UNBOUND)
    ):
        return name, "unknown", "operators were not timed, or the machine not probed"
    shares = {**spent.bounds, "overhead": spent.bounds["overhead"] + spent.uncounted}
    shares[UNBOUND] += spent.unowned
    ranked = sorted(shares.items(), key=lambda one: (one[0] == UNBOUND, -one[1]))
    (first, seconds), *others = ranked
    note = ", ".join(f"{bound} {percent(spent.share(s))}" for bound, s in others if s > 0)
    return name, f"{first} {percent(spent.share(seconds))}", note or "nothing else"


def _work_tile(profile: Profile, whole: Part, shown: Timed | None) -> tuple[str, str, str]:
    counted, missing = macs_of(whole.operators)
    macs = counted if profile.macs is None and missing < len(whole.operators) else profile.macs
    notes = []
    if profile.num_parameters is not None:
        notes.append(f"{large(profile.num_parameters)} parameters")
    reached = whole.share_of_peak(shown.name) if shown else None
    if reached is not None and shown:
        notes.append(f"{shown.name} at {percent(reached)} of the roof")
    if missing:
        notes.append(f"{missing} operator{'s' if missing > 1 else ''} not counted")
    least = "≥ " if missing and macs is not None else ""
    return "multiply-accumulates", f"{least}{large(macs)}", "; ".join(notes) or "nothing else known"


def _memory_tile(profile: Profile) -> tuple[str, str, str]:
    memory = profile.memory
    name = "peak of the activations"
    if memory is None or memory.peak_bytes is None:
        return name, "unknown", "not worked out"
    notes = [f"at {memory.peak_at}"] if memory.peak_at else []
    if memory.weight_bytes is not None:
        notes.append(f"besides {size(memory.weight_bytes)} of weights")
    return name, size(memory.peak_bytes), "; ".join(notes) or "the operator is not known"


def macs_of(operators: Sequence[Operator]) -> tuple[int, int]:
    """The multiply-accumulates that are known, and how many operators' are not."""
    known = [one.macs for one in operators if one.macs is not None]
    return sum(known), len(operators) - len(known)


def _listed(names: Sequence[str]) -> str:
    """ "a, b and c"."""
    return " and ".join(
        part for part in (", ".join(names[:-1]), names[-1] if names else "") if part
    )

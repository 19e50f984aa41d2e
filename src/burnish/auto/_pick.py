"""The pick: the objective among those that are acceptable; a tie goes to the simpler.

Left out: a weighted sum of objectives. There is one objective, and limits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from burnish.auto._search import Found, Search
from burnish.auto._trial import Trial
from burnish.errors import InvalidInput, RuntimeFailed, Unreliable


@dataclass(frozen=True)
class Pick:
    """The chosen trial, why, and what the test data said."""

    trial: Trial
    why: tuple[str, ...]
    state: str
    test: dict[str, Any] | None


def choose(search: Search) -> tuple[Trial | None, tuple[str, ...]]:
    """The trial to pick and the reasons, or None where nothing is acceptable."""
    found = search.found
    good = [t for t in found.trials.values() if search.acceptable(t) is None]
    timed = [t for t in good if search.objective(t) < float("inf")]
    if not timed:
        return None, ()
    timed.sort(key=lambda t: (search.objective(t), t.simplicity))
    best = timed[0]
    why = [
        f"least {search.goal.budget.minimise} of {len(timed)} acceptable candidates"
        if len(timed) > 1
        else "the only acceptable candidate"
    ]
    for other in sorted(timed[1:], key=lambda t: t.simplicity):
        if other.simplicity < best.simplicity and _tie(found, best, other, search):
            why.append(f"{best.label} is no different from it within the noise, and less simple")
            best = other
            break
    return best, (*why, *_comparison(search, best))


def _tie(found: Found, best: Trial, other: Trial, search: Search) -> bool:
    if search.goal.budget.minimise != "latency":
        return search.objective(best) == search.objective(other)
    for race in (found.races[best.label], found.races[other.label]):
        try:
            return race.ratio(best.label, other.label).high >= 1.0
        except (InvalidInput, RuntimeFailed, Unreliable):
            continue  # they did not both run in this race
    return False


def _comparison(search: Search, best: Trial) -> list[str]:
    """How the pick stands against the fastest float32 artifact, in words."""
    found, wanted = search.found, search.goal.budget.minimise
    reference = found.reference
    if reference is None:
        return []
    if best.label == reference.label:
        better = "faster" if wanted == "latency" else f"of less {wanted}"
        return [f"nothing acceptable is {better} than the best float32 artifact: that is the pick"]
    ratio = found.ratio(best.label)
    if ratio is None:
        return ["its time could not be compared reliably with the best float32 artifact"]
    # The ratio is of times; "times faster" is its inverse, with the interval turned round.
    faster = f"{1 / ratio.value:.2f} times as fast ({1 / ratio.high:.2f} to {1 / ratio.low:.2f})"
    told = f"{faster} as the best float32 artifact of this run, {reference.label}"
    if ratio.high >= 1 and ratio.value < 1:
        told += "; the interval does not exclude that it is no faster"
    return [told]


def judge(search: Search, trial: Trial, why: tuple[str, ...]) -> Pick:
    """Look at the test data once, for the pick."""
    goal, built = search.goal, trial.built
    if goal.task.test is None:
        reason = "the task has no test data: the figure on validation data is all there is"
        return Pick(trial, (*why, reason), "no test data", None)
    earlier = [
        str(event["key"]).removeprefix("test:")
        for event in search.shop.store.events()
        if event["key"].startswith("test:") and event["key"] != f"test:{built.variant.key}"
    ]
    if earlier:
        why = (*why, f"an earlier run of this folder looked at the test data for {earlier[-1]}")
    looked = search.shop.test(built)
    if "failed" in looked:
        return Pick(
            trial, (*why, f"on the test data it failed: {looked['failed']}"), "not verified", None
        )
    test = {name: looked[name] for name in ("quality", "baseline", "verdict", "agreement")}
    state = test["verdict"]["state"]
    same = built.variant.precision == "float32" and state != "fails"  # it computes what it replaces
    if same or state == "holds":
        return Pick(trial, why, "verified", test)
    if state == "cannot tell" and goal.budget.accept_undecided:
        return Pick(trial, why, "undecided, accepted", test)
    reason = f"on the test data the verdict is {state!r}: saved as not verified, nothing else tried"
    return Pick(trial, (*why, reason), "not verified", test)

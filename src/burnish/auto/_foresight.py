"""The preflight of a run: what was foreseen before anything was tried, and what was found.

Foreseen moves and candidates are matched by what they are: the runtime, the precision, the threads.
A move's factor is against what the model runs in today, so a candidate's time is put over that of
the reference's own float32 artifact; where the two met in no race, through the fastest float32 one,
which both were raced against.

Left out: moves that no candidate of a search makes (half the channels, a larger batch).
"""

from __future__ import annotations

from burnish.auto._search import Search
from burnish.auto._trial import Trial
from burnish.bench import Ratio
from burnish.errors import RuntimeFailed, Unreliable
from burnish.profile import Preflight

_PRECISIONS = ("float32", "bfloat16", "int8")


def judged(search: Search, foreseen: Preflight) -> Preflight:
    """The preflight with the factor found beside each move that the search made."""
    runtime, precision = foreseen.reference.split()
    now = _trial(search, runtime, precision, foreseen.threads)
    if now is None:
        return foreseen
    found = {}
    for answer in foreseen.answers:
        trial = _made(search, answer.move, foreseen.threads)
        factor = None if trial is None else _factor(search, trial, now)
        if factor is not None:
            found[answer.move] = factor
    return foreseen.with_found(found)


def _made(search: Search, move: str, threads: int) -> Trial | None:
    """The candidate that makes a move: "int8 in openvino", "1 thread in onnxruntime"."""
    what, _, runtime = move.partition(" in ")
    if what == "1 thread":
        return _trial(search, runtime, "float32", 1)
    if move == "compiled by inductor":
        return _trial(search, "inductor", "float32", threads)
    return _trial(search, runtime, what, threads) if what in _PRECISIONS else None


def _trial(search: Search, runtime: str, precision: str, threads: int) -> Trial | None:
    """The plain candidate of that kind: int8 as static quantization first makes it."""
    for trial in search.found.trials.values():
        variant = trial.built.variant
        plain = variant.recipe == "static" and not variant.exclude
        kind = (variant.runtime, variant.precision, trial.threads)
        if plain and kind == (runtime, precision, threads):
            return trial
    return None


def _factor(search: Search, trial: Trial, now: Trial) -> Ratio | None:
    for label in (trial.label, now.label):
        race = search.found.races.get(label)
        if race is not None and {trial.label, now.label} <= set(race.medians):
            try:
                return race.ratio(trial.label, now.label)
            except (RuntimeFailed, Unreliable):
                return None
    ours, theirs = search.found.ratio(trial.label), search.found.ratio(now.label)
    if ours is None or theirs is None:
        return None
    return Ratio(
        ours.value / theirs.value,
        ours.low / theirs.high,
        ours.high / theirs.low,
        ours.unreliable or theirs.unreliable,
    )

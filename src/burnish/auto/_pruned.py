"""Pruned to a latency: width and depth chosen by what they take in the runtime that is shipped to.

    survey what each width and drop does to the outputs
    → artifacts of some variants, drawn at random, raced and timed by operator
    → a model of time over width (`_width_model`) → solve for the limit
    → measure what was solved → add it to what is known → solve again

What counts is measured on the artifact that is to ship: an operator of half the channels may take
as long in int8 as the whole one, and then no channel goes there. The result is not trained: its
latency does not change with its weights, its quality is what recovery makes of it.

Left out: a limit and a budget on quality at once.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from torch import nn

from burnish.auto._bench import Bench, RealBench
from burnish.auto._console import Narrator
from burnish.auto._mix_asked import empty_folder
from burnish.auto._pruned_shop import PrunedShop, Variant
from burnish.auto._width_model import Network, WidthModel, fit
from burnish.bench import Ratio
from burnish.core import Applied, Candidate, settings_of
from burnish.errors import Infeasible, InvalidInput
from burnish.goal import Goal
from burnish.graph import Traced, trace
from burnish.hardware import detect
from burnish.prune import Priced, PruneTo, PruningSurvey, tabulate

NUM_DRAWN = 8
ROUNDS = 4
OVER, UNDER = 0.01, 0.05  # of the limit: what a race cannot tell; faster than asked, close enough
SECONDS, FINAL_SECONDS = 1.5, 4.0  # of racing, for each artifact
PRECISIONS = ("float32", "int8")
_ORIGINAL = "original"


@dataclass(frozen=True)
class Attempt:
    """A solution as it was measured: its time over the original's, and what had been foreseen."""

    foreseen: float
    measured: Ratio
    error: float
    dropped: tuple[str, ...]
    channels: int


@dataclass(frozen=True, eq=False)
class PrunedToLatency:
    """A candidate of the latency asked for, not yet trained.

    Args:
        candidate: the smaller model, with how it came to be.
        speedup: what was asked for.
        measured: the time of its artifact over that of the original's, with its interval.
        original_ms: what the original's artifact takes, on this machine in this race.
        attempts: what was measured on the way, in order.
        block: the number of channels by which the runtime computes, as its times tell.
        notes: what width alone and depth alone would have come to.
    """

    candidate: Candidate
    speedup: float
    measured: Ratio
    original_ms: float
    attempts: tuple[Attempt, ...]
    block: int
    notes: tuple[str, ...]

    def __str__(self) -> str:
        ratio = self.measured
        lines = [
            f"{1 / ratio.value:.2f}x as fast ({1 / ratio.high:.2f} to {1 / ratio.low:.2f}), "
            f"{self.speedup:.2f}x were asked for; the original takes {self.original_ms:.3f} ms",
            f"the runtime computes channels by {self.block}",
        ]
        return "\n".join([*lines, *self.notes])


def prune_to_latency(
    model: nn.Module,
    goal: Goal,
    *,
    speedup: float | None = None,
    latency_ms: float | None = None,
    runtime: str = "openvino",
    precision: str = "float32",
    step: PruneTo | None = None,
    folder: Path | str | None = None,
    bench: Bench | None = None,
    console: Console | None = None,
) -> PrunedToLatency:
    """Prune a model so that its artifact takes a given time, at the goal's batch and threads.

    Args:
        model: a trained model; left as it was.
        goal: calibration data is looked at; validation data gives the inputs to time with.
        speedup: how many times as fast as the original's artifact; or
        latency_ms: what a call may take. One of the two is given.
        runtime: where it is to run.
        precision: "float32", or "int8": every artifact is then quantized before it is timed.
        step: how to prune; its `ratio` and `of` are set here.
        folder: where artifacts are kept; a new temporary one unless told.
        bench: the clock; only tests need another.
        console: where progress is shown; the error stream unless told otherwise.

    Raises:
        InvalidInput: no limit or both, one out of range, data that is missing.
        NoEffect: nothing of the model may be removed.
        Infeasible: not even the smallest variant is foreseen to be so fast; `result` is how many
            times as fast that one is.
        RuntimeFailed, Unsupported: the runtime refuses an artifact.
    """
    _check(speedup, latency_ms, precision)
    narrator = Narrator(console)
    how = dataclasses.replace(step or PruneTo(), of="milliseconds")
    with narrator.busy("tracing the model"):
        traced = model if isinstance(model, Traced) else trace(model, *goal.task.inputs.to_trace())
    with narrator.busy("what each width and each block does to the outputs"):
        found = how.survey(traced, goal)
    threads = goal.target.threads or detect().cores
    place = empty_folder(folder)
    clock = bench or RealBench()
    shop = PrunedShop(how, found, goal, runtime, precision, place, clock, narrator, threads)
    search = _Search(shop)
    if speedup is None:
        assert latency_ms is not None
        speedup = search.original_seconds * 1e3 / latency_ms
        if speedup <= 1:
            raise InvalidInput(
                f"latency_ms={latency_ms:g}: the original takes {search.original_seconds * 1e3:.3f}"
                " ms already"
            )
    return search.run(model, speedup)


def _check(speedup: float | None, latency_ms: float | None, precision: str) -> None:
    given = {"speedup": speedup, "latency_ms": latency_ms}
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) != 1:
        raise InvalidInput(
            "prune_to_latency() takes one limit, speedup= or latency_ms=, and was given "
            f"{' and '.join(named) or 'none'}"
        )
    ((name, value),) = named.items()
    least = 1.0 if name == "speedup" else 0.0
    if not (math.isfinite(value) and value > least):
        raise InvalidInput(f"prune_to_latency({name}={value!r}): a finite number above {least:g}")
    if precision not in PRECISIONS:
        raise InvalidInput(
            f"prune_to_latency(precision={precision!r}): one of {', '.join(PRECISIONS)}"
        )


class _Search:
    """What was made and measured, and what is foreseen from it."""

    def __init__(self, shop: PrunedShop) -> None:
        self.shop = shop
        self.found: PruningSurvey = shop.found
        self.kept = {name: widths.kept for name, widths in self.found.widths.items()}
        drawn = [self._make(*choice) for choice in self._drawn()]
        self.original = drawn[0]
        race = shop.race(drawn, SECONDS)
        self.original_seconds = race.timing(_ORIGINAL).p50
        self.networks: list[Network] = []
        for variant in drawn:
            share = race.ratio(variant.label, _ORIGINAL).value
            self.networks.append(shop.network(variant, share * self.original_seconds))
        self._learn()
        shop.narrator.say(
            f"  {len(drawn)} variants: times are told to {self.model.spread:.1%} in the median; "
            f"the runtime computes channels by {self.model.block}"
        )

    def _make(self, label: str, levels: dict[str, int], dropped: Sequence[str]) -> Variant:
        return self.shop.make(label, self.found.removed(levels), dropped)

    def _drawn(self) -> list[tuple[str, dict[str, int], tuple[str, ...]]]:
        """The original, the smallest in width, that in depth, and some drawn at random."""
        draw = random.Random(self.shop.goal.seed)
        least = {name: len(kept) - 1 for name, kept in self.kept.items()}
        blocks = tuple(self.found.drops)
        chosen: list[tuple[str, dict[str, int], tuple[str, ...]]] = [(_ORIGINAL, {}, ())]
        if least:
            chosen.append(("narrow", least, ()))
        if blocks:
            chosen.append(("shallow", {}, blocks))
        for number in range(NUM_DRAWN):
            levels = {name: draw.randrange(len(kept)) for name, kept in self.kept.items()}
            share = draw.random() if number % 2 else 0.0
            dropped = tuple(name for name in blocks if draw.random() < share)
            chosen.append((f"drawn {number + 1}", levels, dropped))
        return chosen

    def _learn(self) -> None:
        """The model of all that was measured, and its times as tables over widths, in seconds."""
        self.model: WidthModel = fit(self.networks)
        self.terms = self._tables(self.model)

    def _tables(self, model: WidthModel) -> list[Priced]:
        rest: Any = np.full((), model.rest)
        priced = [Priced((), rest)]
        for item in self.shop.operators:
            if item.family in model.families:
                priced.append(
                    tabulate(
                        self.found.channels,
                        self.kept,
                        item.axes,
                        lambda *widths, family=item.family: model.operator(family, widths),
                        item.block,
                    )
                )
        return priced

    def run(self, model: nn.Module, speedup: float) -> PrunedToLatency:
        """Solve, measure, learn, until what is measured is what was asked for."""
        shop = self.shop
        wanted = 1 / speedup
        aim, middle = wanted, wanted * (1 + (OVER - UNDER) / 2)  # of what is taken
        step = dataclasses.replace(shop.step, ratio=1 - wanted)
        notes = self._alone(step)
        attempts: list[Attempt] = []
        best: tuple[float, Any, Ratio] | None = None
        for number in range(1, ROUNDS + 1):
            try:
                choices = self._solved(dataclasses.replace(step, ratio=1 - aim))
            except Infeasible:
                if best is None:
                    raise
                break
            plan = choices.plan
            variant = shop.make(f"solved {number}", plan["removed"], plan["dropped"])
            race = shop.race([self.original, variant], FINAL_SECONDS)
            ratio = race.ratio(variant.label, _ORIGINAL)
            seen = shop.network(variant, ratio.value * self.original_seconds)
            foreseen = 1 - plan["saved"]
            lost = sum(len(numbers) for numbers in plan["removed"].values())
            attempts.append(Attempt(foreseen, ratio, plan["error"], tuple(plan["dropped"]), lost))
            shop.narrator.say(
                f"  {variant.label}: {1 / ratio.value:.2f}x as fast, {1 / foreseen:.2f}x foreseen; "
                f"{len(plan['dropped'])} blocks and {lost} channels gone"
            )
            off = _off(ratio.value / wanted)
            if best is None or off < best[0]:
                best = (off, choices, ratio)
            # Further below is right, too, where it was foreseen: nothing nearer costs less quality.
            if off <= UNDER or (off <= 1 and abs(foreseen / ratio.value - 1) <= UNDER):
                break
            self.networks.append(seen)
            self._learn()
            # What the model still tells wrongly here is taken off the next limit.
            aim *= middle / ratio.value
            if aim >= 1:  # nothing would go: it is much faster than asked for already
                break
        assert best is not None
        off, choices, ratio = best
        if off > 1:
            notes = (*notes, f"not reached in {len(attempts)} attempts: this is the closest")
        choices = step.with_form(model, shop.traced, shop.goal.task.inputs, choices)
        applied = Applied("PruneTo", settings_of(step), choices)
        candidate = Candidate(model).after(step.rewrite(model, choices), applied)
        return PrunedToLatency(
            candidate,
            speedup,
            ratio,
            self.original_seconds * 1e3,
            tuple(attempts),
            self.model.block,
            notes,
        )

    def _solved(self, step: PruneTo) -> Any:
        try:
            return step.solved(self.found, self.terms)
        except Infeasible as error:
            fastest = 1 / (1 - error.result)  # type: ignore[operator]
            raise Infeasible(
                f"{1 / (1 - step.ratio):.2f} times as fast cannot be reached: with all groups as "
                f"narrow, and all blocks gone, as may be, {fastest:.2f} times is foreseen",
                result=fastest,
            ) from None

    def _alone(self, step: PruneTo) -> tuple[str, ...]:
        """What width alone and depth alone come to, as the model foresees it."""
        notes = []
        narrow = dataclasses.replace(self.found, drops={}, blocks=())
        shallow = dataclasses.replace(self.found, widths={})
        for what, found in (("width", narrow), ("depth", shallow)):
            if not found.widths and not found.drops:
                notes.append(f"{what} alone: there is nothing to remove")
                continue
            try:
                plan = step.solved(found, _without(self.terms, found)).plan
                notes.append(f"{what} alone would move the outputs by {plan['error']:.3g}")
            except Infeasible as error:
                fastest = 1 / (1 - error.result)  # type: ignore[operator]
                notes.append(f"{what} alone would be {fastest:.2f}x as fast at most")
        return tuple(notes)


def _off(share: float) -> float:
    """How bad a time is, as a share of the limit: by how much it is below; above 1 if over it."""
    return 1 - min(share, 1) if share <= 1 + OVER else share


def _without(terms: Sequence[Priced], found: PruningSurvey) -> list[Priced]:
    """The tables of a survey that leaves some units or blocks out: those stay whole."""
    kept = []
    for term in terms:
        table: Any = term.table
        for place, name in reversed(list(enumerate(term.units))):
            if name not in found.widths:
                table = table.take(0, axis=place)
        names = tuple(name for name in term.units if name in found.widths)
        kept.append(Priced(names, table, term.block if term.block in found.drops else None))
    return kept

"""The search behind `mix`: ladders, artifacts of one precision, tables, allocations, the race.

Everything that is made is made once: an allocation that is an artifact already is not exported
again. Times come from races with one reference, in the reference's own time, so that what the
machine does between two races divides out.

Left out: correcting until nothing changes; what is picked was measured either way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from burnish.auto._mix_costs import Costs, alternating
from burnish.auto._mix_result import Limit, Mix, Mixed, best
from burnish.auto._mix_shop import Draft, Made, Shop
from burnish.bench import Race
from burnish.core import Allocation, Applied, settings_of
from burnish.errors import Infeasible, NoEffect, RuntimeFailed
from burnish.graph import Traced
from burnish.quantize import MixedPrecision, Survey, survey

ROUNDS = 2  # solved, corrected, solved once more
MOST_ROUNDS = 3
SETTLED = 0.05
SECONDS, FINAL_SECONDS = 1.5, 2.5  # of racing, for each artifact
_PROBE = ", probe"
_UNITS = {"latency_ms": "ms", "size_mb": "MB", "error": "ms"}


@dataclass(eq=False)
class _Ladder:
    """One runtime with one float type: what was seen of it, and what was made."""

    runtime: str
    seen: Survey
    costs: Costs | None = None
    loss_scale: float = 1.0
    settled: bool = False
    predicted: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.runtime} {self.seen.base}"


class Search:
    """The ladders of one call, and all that was made."""

    def __init__(self, shop: Shop, limit: Limit) -> None:
        self.shop = shop
        self.limit = limit
        self.ladders: list[_Ladder] = []
        self.made: dict[tuple[Any, ...], Made] = {}
        self.notes: list[str] = []
        self.reference: tuple[str, float] | None = None

    def run(self, wanted: Sequence[tuple[str, tuple[str, ...]]]) -> Mix:
        """All phases."""
        self._survey(wanted)
        self._uniform()
        for number in range(1, MOST_ROUNDS + 1):
            self._round(number)
        return self._finish()

    # --- what there is

    def _survey(self, wanted: Sequence[tuple[str, tuple[str, ...]]]) -> None:
        refused = []
        for runtime, precisions in wanted:
            with self.shop.narrator.busy(f"what each layer loses on {runtime}"):
                try:
                    seen = survey(self.shop.folded, self.shop.statistics, runtime, precisions)
                except NoEffect as nothing:
                    refused.append(str(nothing))
                    continue
            self.ladders.append(_Ladder(runtime, seen))
        if not self.ladders:
            raise NoEffect("\n".join(refused))
        self.notes += refused

    def _uniform(self) -> None:
        """Artifacts of one precision, their times, and the table of costs with its probe."""
        drafts: dict[tuple[str, str], list[tuple[str, Made]]] = {}
        for ladder in self.ladders:
            mine = drafts.setdefault((ladder.runtime, ladder.seen.base), [])
            for precision in ladder.seen.precisions:
                draft = _uniform_draft(ladder, precision)
                if draft is not None:
                    made = self._make(ladder, draft)
                    mine += [] if made is None else [(precision, made)]
        everything = [made for mine in drafts.values() for _, made in mine]
        if not everything:
            raise RuntimeFailed(f"no artifact could be made: {self.shop.failures}")
        seconds = self._timed(everything)
        for ladder in self.ladders:
            mine = drafts[ladder.runtime, ladder.seen.base]
            ladder.costs = self._costs(ladder, mine, seconds)
        if self.limit.of != "size_mb":
            self._probe()

    def _costs(
        self, ladder: _Ladder, mine: Sequence[tuple[str, Made]], seconds: dict[str, float]
    ) -> Costs | None:
        """The table of a ladder; None where its float artifact, or a counter, failed."""
        by_precision = dict(mine)
        base = by_precision.get(ladder.seen.base)
        if base is None:
            return None
        if self.limit.of == "size_mb":
            return Costs.of_bytes(ladder.seen, base.artifact.size_bytes(), set(by_precision))
        wholes = {}
        for precision, made in mine:
            if made.draft.label in seconds:
                whole = self.shop.whole(made, seconds[made.draft.label])
                if whole is not None:
                    wholes[precision] = whole
        return Costs.of_times(ladder.seen, wholes) if ladder.seen.base in wholes else None

    def _probe(self) -> None:
        """What changing precision costs on each ladder, from one artifact that does it often."""
        probes = []
        for ladder in self.ladders:
            if ladder.costs is None or "int8" not in ladder.seen.precisions:
                continue
            precisions = alternating(ladder.costs)
            if len(set(precisions.values())) == 2:
                draft = Draft(
                    f"{ladder.name}{_PROBE}", ladder.runtime, ladder.seen.base, precisions, True
                )
                made = self._make(ladder, draft)
                probes += [] if made is None else [(ladder, made)]
        seconds = self._timed([made for _, made in probes])
        for ladder, made in probes:
            assert ladder.costs is not None
            if made.draft.label in seconds:
                ladder.costs = ladder.costs.observed(
                    made.draft.precisions, seconds[made.draft.label]
                )

    # --- allocate, measure, correct

    def _round(self, number: int) -> None:
        """Allocate on every ladder that is not settled, measure the wholes, correct the tables.

        From the third round on, only where the second was foreseen wrong by more than 5 %.
        """
        going = [ladder for ladder in self.ladders if number <= ROUNDS or not ladder.settled]
        solved = [one for ladder in going if (one := self._solved(ladder, number)) is not None]
        seconds = self._timed([made for _, made in solved]) if self.limit.of == "latency_ms" else {}
        for ladder, made in solved:
            measured = {
                "latency_ms": seconds.get(made.draft.label),
                "size_mb": float(made.artifact.size_bytes()),
                "error": made.error,
            }[self.limit.of]
            if measured is not None:
                self._correct(ladder, made, measured)

    def _correct(self, ladder: _Ladder, made: Made, measured: float) -> None:
        assert ladder.costs is not None
        foreseen = ladder.predicted[made.draft.label]
        ladder.settled = abs(measured - foreseen) <= SETTLED * foreseen
        if self.limit.of != "error":
            ladder.costs = ladder.costs.observed(made.draft.precisions, measured)
        elif foreseen > 0:
            ladder.loss_scale *= measured / foreseen

    def _solved(self, ladder: _Ladder, number: int) -> tuple[_Ladder, Made] | None:
        """The ladder's best allocation as an artifact; None where there is none, or it is known."""
        if ladder.costs is None:
            return None
        minimise = self.limit.minimise
        try:
            found, options = ladder.costs.solve(self._most(), minimise, ladder.loss_scale)
        except Infeasible as nothing:
            self._note(f"{ladder.name}: {self._unreachable(nothing)}")
            ladder.settled = True
            return None
        label = f"{ladder.name}, mixed {number}"
        draft = Draft(label, ladder.runtime, ladder.seen.base, found.chosen)
        if draft.key in self.made and _is_probe(self.made[draft.key]):
            del self.made[draft.key]  # a probe says nothing about its layers: made again, with rows
        if draft.key in self.made:
            self._note(f"{label} is {self.made[draft.key].draft.label} again")
            ladder.settled = True
            return None
        told = found.loss if minimise == "cost" else found.cost
        ladder.predicted[label] = told
        made = self._make(ladder, draft, found, options)
        return None if made is None else (ladder, made)

    def _unreachable(self, nothing: Infeasible) -> str:
        """What the nearest allocation is foreseen to have."""
        nearest = nothing.result
        assert isinstance(nearest, Allocation)
        value = nearest.loss if self.limit.of == "error" else nearest.cost * self._unit
        return f"no allocation is within the limit: the least foreseen is {value:.4g}"

    def _most(self) -> float:
        """The limit in the unit of the table: seconds, bytes, or a share."""
        return self.limit.most if self.limit.of == "error" else self.limit.most / self._unit

    @property
    def _unit(self) -> float:
        """What a cost of the table is multiplied by to be read: seconds or bytes."""
        return 1e-6 if self.limit.of == "size_mb" else 1e3

    def _make(
        self, ladder: _Ladder, draft: Draft, found: Allocation | None = None, options: Any = None
    ) -> Made | None:
        if draft.key in self.made:
            return self.made[draft.key]
        made = self.shop.make(draft, lambda: self._graph(ladder, draft, found, options))
        if made is not None:
            self.made[draft.key] = made
            self.shop.narrator.say(f"  {draft.label}: error {made.error:.2g}")
        return made

    def _graph(
        self, ladder: _Ladder, draft: Draft, found: Allocation | None, options: Any
    ) -> tuple[Traced, Applied | None]:
        folded, seen = self.shop.folded, ladder.seen
        if set(draft.precisions.values()) == {seen.base}:
            return folded, None
        if found is None:  # nothing was chosen: a uniform artifact, or a probe
            options = seen.options(lambda layer, precision: 0.0)
            found = Allocation(draft.precisions, 0.0, 0.0)
        step = MixedPrecision(
            self.limit.most,
            seen.runtime,
            seen.precisions,
            self.limit.minimise,
            unit=_UNITS[self.limit.of],
        )
        scaled = _in_unit(options, self._unit)
        told = dataclasses.replace(
            found, cost=self._unit * found.cost, seams=self._unit * found.seams
        )
        choices = step.compose(
            folded, self.shop.statistics, seen, scaled, told, self.shop.goal.seed
        )
        graph = step.rewrite(folded, choices)
        assert isinstance(graph, Traced)
        return graph, Applied("MixedPrecision", settings_of(step), choices)

    # --- time

    def _timed(self, made: Sequence[Made]) -> dict[str, float]:
        """Seconds by label, from a race together with the reference, in the reference's time."""
        if not made:
            return {}
        if self.reference is None:
            race = self.shop.race(made, SECONDS * len(made) + 2)
            ran = [t for t in race.timings if t.failed is None]
            if not ran:
                raise RuntimeFailed(f"no artifact ran: {self.shop.failures}")
            first = next((t for t in ran if "float32" in t.label), ran[0])
            self.reference = (first.label, first.p50)
            return {t.label: race.latency(t.label)[0] for t in ran}
        label, base = self.reference
        known = next(item for item in self.made.values() if item.draft.label == label)
        field = [known, *(item for item in made if item is not known)]
        race = self.shop.race(field, SECONDS * len(field) + 2)
        if race.timing(label).failed is not None:
            return {}
        return {
            t.label: base * race.ratio(t.label, label).value
            for t in race.timings
            if t.failed is None
        }

    # --- the end

    def _finish(self) -> Mix:
        field = [made for made in self.made.values() if not _is_probe(made)]
        race = self.shop.race(field, FINAL_SECONDS * len(field))
        candidates = tuple(
            item for made in field if (item := self._candidate(made, race)) is not None
        )
        if not candidates:
            raise RuntimeFailed(f"nothing that was made could be measured: {self.shop.failures}")
        pick = best(candidates, self.limit)
        notes, failures = tuple(self.notes), dict(self.shop.failures)
        if pick is None:
            nearest = min(candidates, key=lambda item: item.figure(self.limit.of))
            raise Infeasible(
                f"nothing has a {self.limit.of} of at most {self.limit.most:g}: the least that was "
                f"measured is {nearest.figure(self.limit.of):.4g} ({nearest.label}); raise the "
                "limit to that, or allow further runtimes or precisions",
                Mix(self.limit, nearest, candidates, notes, failures),
            )
        return Mix(self.limit, pick, candidates, notes, failures)

    def _candidate(self, made: Made, race: Race) -> Mixed | None:
        draft, label = made.draft, made.draft.label
        if race.timing(label).failed is not None:
            return None
        judged = self.shop.judge(made)
        if judged is None:
            return None
        value, low, high = (1e3 * seconds for seconds in race.latency(label))
        predicted = next(
            (ladder.predicted[label] for ladder in self.ladders if label in ladder.predicted), None
        )
        scale = 1.0 if self.limit.of == "error" else self._unit
        mixed = made.applied is not None and not draft.uniform
        rows = made.applied.choices.plan["allocation"] if mixed and made.applied else ()
        return Mixed(
            label,
            draft.runtime,
            draft.base,
            draft.precisions,
            made.artifact,
            draft.uniform,
            value,
            low,
            high,
            made.artifact.size_bytes() / 1e6,
            made.error,
            None if predicted is None else scale * predicted,
            *judged,
            tuple(rows),
            made.applied,
        )

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            self.shop.narrator.say(f"  {text}")


def _is_probe(made: Made) -> bool:
    return made.draft.label.endswith(_PROBE)


def _uniform_draft(ladder: _Ladder, precision: str) -> Draft | None:
    """Every layer in one precision; None where no layer can have it."""
    seen = ladder.seen
    precisions = seen.uniform(precision)
    if precision != seen.base and precision not in precisions.values():
        return None
    rest = "" if precision == seen.base or seen.base == "float32" else f", rest {seen.base}"
    return Draft(f"{ladder.runtime} {precision}{rest}", ladder.runtime, seen.base, precisions, True)


def _in_unit(options: Any, factor: float) -> Any:
    """Options with costs in the unit of the table that people read."""
    return {
        layer: {p: dataclasses.replace(o, cost=factor * o.cost) for p, o in mine.items()}
        for layer, mine in options.items()
    }

"""What a sweep found, and the choice from it: values that can be written down and asked again.

Two questions are answered: the lowest median latency among combinations that get at least so many
samples done in a second, and the most samples in a second among those whose p99 stays under so many
seconds. Throughput is samples over the mean time of all runs, spikes and all, because that is what
is got done; a ceiling is on p99, because that is what a caller is promised.

A difference inside the noise of the race (the interval of the ratio over rounds reaches 1) is no
reason to prefer a larger combination: among those that cannot be told from the best, the one with
the fewest cores and then the smallest batch is chosen.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.bench._environment import Environment
from burnish.bench._result import UNRELIABLE_SPREAD, Race, Timing
from burnish.errors import Damaged, Infeasible, InvalidInput, RuntimeFailed
from burnish.files import write_text

SCHEMA = 1
_SHORTEST = 1e-6  # seconds; reading the clock twice takes about a tenth of that
_ENOUGH_FOR_P99 = 100  # runs
_MILLI = 1e3
_HOUR = 3600.0
_MILLION = 1e6


def label(batch: int, threads: int, streams: int) -> str:
    """What a combination is called in the race."""
    return f"batch={batch}, threads={threads}, streams={streams}"


@dataclass(frozen=True)
class Point:
    """One combination: `threads` of each of `streams` processes, `batch` samples a call of each.

    `timing` has p50, p99 and mean in seconds per call and the throughput of all streams together in
    samples per second, or why it `failed`; `low` and `high` are the interval of the median over
    rounds; `runs` were counted. `joules` is energy per sample, None where it is not measurable.
    `doubt` says why the times are not to be relied on, None where they are.
    """

    batch: int
    threads: int
    streams: int
    timing: Timing
    low: float
    high: float
    runs: int
    joules: float | None
    doubt: str | None

    @property
    def label(self) -> str:
        return label(self.batch, self.threads, self.streams)

    @property
    def few_runs(self) -> bool:
        """Whether p99 is little more than the slowest run, of under 100."""
        return self.timing.failed is None and self.runs < _ENOUGH_FOR_P99

    @property
    def note(self) -> str | None:
        """The doubt, and what p99 rests on where that is few runs."""
        said = [] if self.doubt is None else [self.doubt]
        if self.few_runs:
            said.append(f"p99 rests on {self.runs} runs: little more than the slowest of them")
        return "; ".join(said) or None

    def cost_per_million(self, price_per_hour: float) -> float:
        """What a million samples cost on a machine at this price, whatever part of it is used."""
        if not (price_per_hour > 0 and math.isfinite(price_per_hour)):
            raise InvalidInput(f"price_per_hour is {price_per_hour}; use a number above 0")
        return price_per_hour / _HOUR / self.timing.throughput * _MILLION

    def __str__(self) -> str:
        timing = self.timing
        if timing.failed is not None:
            return f"{self.label}: failed, {timing.failed}"
        return (
            f"{self.label}: p50 {_MILLI * timing.p50:.3g} ms, p99 {_MILLI * timing.p99:.3g} ms, "
            f"{timing.throughput:,.4g} samples/s"
        )


def point(
    race: Race,
    batch: int,
    split: tuple[int, int],
    runs: int,
    joules: float | None,
    quota: float | None,
) -> Point:
    """A combination as the race found it; `split` is threads and streams."""
    threads, streams = split
    timing = race.timing(label(batch, threads, streams))
    low = high = math.nan
    doubts = []
    if timing.failed is None:
        _, low, high = race.latency(timing.label)
        if timing.p50 < _SHORTEST:
            doubts.append("a call takes under a microsecond: reading the clock is a part of it")
        if high / low > UNRELIABLE_SPREAD:
            doubts.append("unsteady: the interval of its median is wider than 25 %")
        if quota is not None and threads * streams > quota:
            doubts.append(
                f"needs {threads * streams} CPUs where a quota allows {quota:g}: in steady use it "
                "stands still for part of the time"
            )
    doubt = "; ".join(doubts) or None
    return Point(batch, threads, streams, timing, low, high, runs, joules, doubt)


@dataclass(frozen=True)
class Sweep:
    """All combinations of one artifact; `energy` says how joules were measured, or why not."""

    title: str
    created: str
    points: tuple[Point, ...]
    energy: str
    notes: tuple[str, ...]
    environment: Environment
    race: Race

    def best(self, *, min_throughput: float | None = None, max_p99: float | None = None) -> Point:
        """The lowest p50 with at least `min_throughput` samples/s, or the highest throughput with
        a p99 of at most `max_p99` seconds.

        Raises `Infeasible` when no combination does, with the nearest as its `result`, and
        `RuntimeFailed` when none ran at all.
        """
        return self._choose(min_throughput, max_p99)[0]

    def _choose(self, min_throughput: float | None, max_p99: float | None) -> tuple[Point, str]:
        limit = min_throughput if max_p99 is None else max_p99
        if limit is None or (min_throughput is not None and max_p99 is not None):
            raise InvalidInput("give one of min_throughput and max_p99, the other is then the aim")
        if not (limit > 0 and math.isfinite(limit)):
            raise InvalidInput(f"the limit is {limit}; use a number above 0")
        ran = [item for item in self.points if item.timing.failed is None]
        if not ran:
            raise RuntimeFailed(f"no combination ran; {self.points[0]}")
        if max_p99 is None:
            what = f"at least {limit:g} samples/s"
            good = [item for item in ran if item.timing.throughput >= limit]
            nearest = max(ran, key=_throughput)
            near = f"gets {100 * nearest.timing.throughput / limit:.3g} % of it"
            leader, aim = min(good, key=_latency, default=None), "lowest median latency"
        else:
            what = f"a p99 of at most {_MILLI * limit:g} ms"
            good = [item for item in ran if item.timing.p99 <= limit]
            nearest = min(ran, key=lambda item: item.timing.p99)
            near = f"takes {nearest.timing.p99 / limit:.3g} times that"
            leader, aim = max(good, key=_throughput, default=None), "highest throughput"
        if leader is None:
            raise Infeasible(
                f"none of {len(ran)} combinations has {what}; the nearest, {nearest.label}, {near}",
                nearest,
            )
        equal = [item for item in good if self._equal(item, leader, max_p99 is not None)]
        chosen = min(equal, key=lambda item: (item.threads * item.streams, item.batch))
        why = f"{aim} of {len(good)} combinations with {what} ({len(ran)} ran)"
        if chosen is not leader:
            why += f"; {leader.label} is ahead by no more than the noise"
        return chosen, f"{chosen}: {why}"

    def _equal(self, one: Point, leader: Point, per_sample: bool) -> bool:
        """Whether the race cannot tell that `leader` is the faster (per call, or per sample)."""
        if one is leader:
            return True
        ratio = self.race.ratio(one.label, leader.label)
        samples = one.batch * one.streams / (leader.batch * leader.streams) if per_sample else 1.0
        return not ratio.unreliable and ratio.low / samples <= 1

    def to_json(
        self,
        *,
        min_throughput: float | None = None,
        max_p99: float | None = None,
        price_per_hour: float | None = None,
    ) -> dict[str, Any]:
        """A plain dict with the answers to these questions; times in ms. NaN is written as null."""
        best = cost = None
        if min_throughput is not None or max_p99 is not None:
            best = self._answer(min_throughput, max_p99)
        if price_per_hour is not None:
            each = [item.cost_per_million(price_per_hour) for item in self.points]
            cost = {"price_per_hour": price_per_hour, "per_million": [_known(c) for c in each]}
        return {
            "schema": SCHEMA,
            "title": self.title,
            "created": self.created,
            "points": [_record(item) for item in self.points],
            "best": best,
            "energy": {
                "measured": any(item.joules is not None for item in self.points),
                "how": self.energy,
            },
            "cost": cost,
            "notes": list(self.notes),
            "environment": self.environment.to_json(),
            "race": self.race.to_json(),
        }

    def _answer(self, min_throughput: float | None, max_p99: float | None) -> dict[str, Any]:
        chosen: Point | None = None
        nearest: Any = None
        try:
            chosen, why = self._choose(min_throughput, max_p99)
        except Infeasible as error:
            nearest, why = error.result, str(error)
        except RuntimeFailed as error:
            why = str(error)
        return {
            "min_throughput": min_throughput,
            "max_p99_ms": None if max_p99 is None else _MILLI * max_p99,
            "point": None if chosen is None else self.points.index(chosen),
            "nearest": None if nearest is None else self.points.index(nearest),
            "why": why,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Sweep:
        """Read back what `to_json` wrote; answers are asked for again. Raises `Damaged`."""
        try:
            if record["schema"] != SCHEMA:
                raise Damaged(
                    f"this sweep has schema {record['schema']}; this version reads schema {SCHEMA}"
                )
            environment = Environment.from_json(record["environment"])
            quota = environment.machine.quota
            race = Race.from_json(record["race"])
            points = []
            for item in record["points"]:
                split = item["threads"], item["streams"]
                points.append(
                    point(race, item["batch"], split, item["runs"], item["joules"], quota)
                )
            energy, notes = record["energy"]["how"], tuple(record["notes"])
            title, created = record["title"], record["created"]
        except (TypeError, KeyError, InvalidInput) as error:
            raise Damaged(f"this is no sweep's record ({error})") from None
        return cls(title, created, tuple(points), energy, notes, environment, race)

    def save(
        self,
        folder: Path,
        *,
        min_throughput: float | None = None,
        max_p99: float | None = None,
        price_per_hour: float | None = None,
    ) -> Path:
        """Write `folder/sweep.json`, whole or not at all, with the answers `to_json` gives."""
        record = self.to_json(
            min_throughput=min_throughput, max_p99=max_p99, price_per_hour=price_per_hour
        )
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        write_text(folder / "sweep.json", text)
        return folder / "sweep.json"


def _latency(item: Point) -> float:
    return item.timing.p50


def _throughput(item: Point) -> float:
    return item.timing.throughput


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _record(item: Point) -> dict[str, Any]:
    timing = item.timing
    return {
        "batch": item.batch,
        "threads": item.threads,
        "streams": item.streams,
        "p50_ms": _known(_MILLI * timing.p50),
        "low": _known(_MILLI * item.low),
        "high": _known(_MILLI * item.high),
        "p99_ms": _known(_MILLI * timing.p99),
        "throughput": _known(timing.throughput),
        "runs": item.runs,
        "joules": item.joules,
        "reliable": item.timing.failed is None and item.doubt is None,
        "note": item.note,
        "failed": timing.failed,
    }

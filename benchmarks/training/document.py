"""The command line and the JSON that the benchmarks that train have in common.

A run that was ended carries on where it was: each row goes through the journal of its part's run
folder, which belongs to the source files that decide what comes out. Other files may change.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from models import Sources
from models.model import CACHE, DATA, ROOT
from ptq.tools import pin
from result import write_result

from burnish.bench import Environment
from burnish.errors import BurnishError
from burnish.recipe import Store
from training.watching import say, watch

RESULTS = ROOT / "benchmarks" / "results"
ALWAYS = ("burnish/goal", "burnish/metrics", "burnish/train")  # of src: decides what is learned
BESIDE = ("models", "networks", "training")  # of benchmarks


@dataclass(frozen=True)
class Script:
    """A benchmark: its name, what it asks, about how many minutes each part takes, its rooms."""

    name: str
    asks: str
    minutes: Mapping[str, int]
    rooms: tuple[str, ...] = ()

    @property
    def result(self) -> Path:
        """Where a whole run's result goes."""
        return RESULTS / f"{self.name}.json"

    def parse(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """The command line."""
        parts = ", ".join(f"{part} {minutes}" for part, minutes in self.minutes.items())
        whole = sum(self.minutes.values())
        parser = argparse.ArgumentParser(
            description=f"{self.asks} About how many minutes on two cores: {parts}; {whole} in all."
        )
        names = list(self.minutes)
        parser.add_argument("--parts", nargs="+", choices=names, default=names)
        parser.add_argument("--data", type=Path, default=DATA)
        parser.add_argument("--cache", type=Path, default=CACHE, help="images as bytes, weights")
        parser.add_argument("--work", type=Path, default=ROOT / "burnish-runs" / self.name)
        parser.add_argument("--threads", type=int, default=2)
        parser.add_argument("--quick", action="store_true", help="few samples: does it work at all")
        parser.add_argument("--output", type=Path, help=f"default {self.result}, of a whole run")
        given = parser.parse_args(arguments)
        partial = given.quick or len(given.parts) < len(names)
        given.output = given.output or (None if partial else self.result)
        return given

    def digest(self) -> str:
        """Of every file that decides an outcome; a run folder belongs to one of them."""
        folders = [ROOT / "src" / room for room in (*ALWAYS, *self.rooms)]
        folders += [ROOT / "benchmarks" / name for name in BESIDE]
        files = [path for folder in folders for path in folder.rglob("*.py")]
        files.append(ROOT / "benchmarks" / f"{self.name}.py")
        found = hashlib.sha256()
        for path in sorted(files):
            found.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
        return found.hexdigest()[:12]


@dataclass(eq=False)
class Part:
    """What a part is given, and what it leaves: its settings, rows and claims.

    `shared` is a folder that all parts of a run have in common.
    """

    name: str
    store: Store
    shared: Path
    sources: Sources
    threads: int
    quick: bool
    settings: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    claims: list[dict[str, Any]] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Where it may keep what it wants to find again."""
        return self.store.folder

    def once(self, key: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A row's measurement, made once in the life of the folder."""
        known = self.store.find(key)
        if known is None:
            say(f"{self.name}: {key}")
        return dict(self.store.once(key, work) if known is None else known)


def measure(
    script: Script, given: argparse.Namespace, parts: Mapping[str, Callable[[Part], None]]
) -> dict[str, Any]:
    """Run the parts that were asked for; the document that is committed."""
    pin(given.threads)
    torch.set_num_threads(given.threads)
    digest, effort = script.digest(), "quick" if given.quick else "full"
    sources = Sources(given.data, given.cache, watch=watch)
    done: list[Part] = []
    for name in given.parts:
        ending = f"{effort}-{given.threads}-{digest}"
        folder, shared = given.work / f"{name}-{ending}", given.work / f"shared-{ending}"
        identity = {"part": name, "sources": digest, "quick": given.quick}
        with Store.open(folder, identity) as store:
            part = Part(name, store, shared, sources, given.threads, given.quick)
            parts[name](part)
        done.append(part)
    return {
        "schema": 1,
        "benchmark": script.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": {part.name: _spent(part) for part in done},
        "environment": Environment.capture().to_json(),
        "settings": {
            "threads": given.threads,
            "quick": given.quick,
            **{part.name: part.settings for part in done},
        },
        "rows": [{"part": part.name, **row} for part in done for row in part.rows],
        "claims": [claim for part in done for claim in part.claims],
    }


def _spent(part: Part) -> float:
    """Seconds of all that the journal holds, whichever run did it."""
    return round(sum(event["result"].get("took", 0.0) for event in part.store.events()), 1)


def run(script: Script, parts: Mapping[str, Callable[[Part], None]]) -> int:
    """The command: measure, show the claims, write the result where it belongs; the exit code.

    It is 0 also where a claim is missed: that is a result.
    """
    given = script.parse()
    try:
        document = measure(script, given, parts)
    except BurnishError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    for row in document["rows"]:
        say(line(row))
    for claim in document["claims"]:
        value = "–" if claim["value"] is None else f"{claim['value']:.4g}"
        say(f"{'met' if claim['met'] else 'MISSED':7}{value:>10}  {claim['claim']}")
    if given.output is not None:
        write_result(document, given.output)
    return 0


def line(row: Mapping[str, Any]) -> str:
    """A row in short: its figures, and the interval of its verdict."""
    said = [f"{row['part']:10}", str(row["label"])]
    said += [f"seed {row['seed']}"] if "seed" in row else []
    said += [f"top-1 {row['top1']:.4f}"] if row.get("top1") is not None else []
    said += [f"{row['batch_ms']:.1f} ms a batch"] if isinstance(row.get("batch_ms"), float) else []
    for key in ("ratio", "speed_up"):
        if key in row:
            said.append("time {value:.3f} ({low:.3f} to {high:.3f})".format(**row[key]))
    if row.get("verdict"):
        points = (100 * row["verdict"][name] for name in ("difference", "low", "high"))
        said.append("{:+.2f} points ({:+.2f} to {:+.2f})".format(*points))
    return ", ".join(said)

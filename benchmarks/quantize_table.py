"""What each quantization technique does to four networks: quality, time and size in one table.

    python benchmarks/quantize_table.py [--model NAME ...] [--quick]

For each network every row of table/entries.py is built, exported, and let answer all validation
data in a worker process; then all of a network's artifacts are raced in turns. What the result
holds is told in benchmarks/README.md; docs/methods/quantize_table.md is written from it. A run that
was ended carries on where it was, as long as no source file has changed since.

Left out: batches above 1, and numbers of threads other than the one given (`burnish bench`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import Progress, track

ROOT = Path(__file__).resolve().parents[1]
for _folder in (ROOT / "src", ROOT / "examples"):
    sys.path.insert(0, str(_folder))

from models import NAMES, Model, Sources, load  # noqa: E402
from models.model import CACHE, DATA, groups_of  # noqa: E402
from ptq.tools import pin  # noqa: E402
from result import write_result  # noqa: E402
from table.build import Builder  # noqa: E402
from table.document import claims_of, renewed, rows_of  # noqa: E402
from table.entries import entries  # noqa: E402
from table.measure import Bench  # noqa: E402
from table.page import page  # noqa: E402

from burnish.bench import Environment, Race  # noqa: E402
from burnish.errors import BurnishError, InvalidInput  # noqa: E402
from burnish.recipe import Store  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "quantize_table.json"
LATER = (
    "renewed",
    "weights-qat",
    "weights",
)  # runs of some rows, in order: quantize_table--NAME.json
PAGE = ROOT / "docs" / "methods" / "quantize_table.md"
SEED = 0
RACE_SECONDS, STEPS = 50.0, 256  # a race; of quantization-aware training
QUICK_SECONDS, QUICK_STEPS, QUICK_SAMPLES = 4.0, 1, 96
T = TypeVar("T")
console = Console(width=None if sys.stdout.isatty() else 160)


def watch(items: Iterable[T], title: str) -> Iterable[T]:
    """A progress bar around an iterable."""
    return track(items, title, console=console, transient=True)


@contextmanager
def share(title: str) -> Iterator[Callable[[float], None]]:
    """A progress bar for what tells its share from 0 to 1."""
    with Progress(console=console, transient=True) as bar:
        shown = bar.add_task(title, total=1.0)
        yield lambda done: bar.update(shown, completed=done)


def sources_digest() -> str:
    """Of every file that decides an outcome; a run folder belongs to one of them."""
    digest = hashlib.sha256()
    for folder in (ROOT / "src", ROOT / "benchmarks"):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """All models, as the document that is committed."""
    pin(given.threads)
    torch.set_num_threads(given.threads)
    samples = QUICK_SAMPLES if given.quick else None
    sources = Sources(given.data, given.cache, samples, SEED, watch)
    digest, phases = sources_digest(), {}
    rows: list[dict[str, Any]] = []
    models: dict[str, Any] = {}
    for name in given.model:
        start = time.monotonic()
        model = load(name, sources)
        effort = "quick" if given.quick else "full"
        folder = given.work / f"{name}-{effort}-{given.threads}-{digest}"
        identity = {"model": name, "sources": digest, "quick": given.quick, "seed": SEED}
        with Store.open(folder, identity) as store:
            measured, told = measure_model(model, store, given)
        rows += measured
        models[name] = told
        phases[name] = round(time.monotonic() - start, 1)
    return {
        "schema": 1,
        "benchmark": "quantize_table",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": phases,
        "environment": Environment.capture().to_json(),
        "settings": {
            "seed": SEED,
            "threads": given.threads,
            "quick": given.quick,
            "race_seconds": race_seconds(given),
            "steps of training": steps(given),
        },
        "models": models,
        "rows": rows,
        "claims": claims_of(rows),
    }


def race_seconds(given: argparse.Namespace) -> float:
    """How long the race of one model's artifacts takes."""
    return QUICK_SECONDS if given.quick else RACE_SECONDS


def steps(given: argparse.Namespace) -> int:
    """How long quantization-aware training is, about."""
    return QUICK_STEPS if given.quick else STEPS


def measure_model(
    model: Model, store: Store, given: argparse.Namespace
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A model's rows, and what the result says about it."""
    known = entries(model.kind)
    for part in given.rows:
        if not any(part in entry.label for entry in known):
            raise InvalidInput(f"--rows {part!r}: no row's label holds it")
    chosen = [e for e in known if not given.rows or any(part in e.label for part in given.rows)]
    bench = Bench(model, store, given.threads, race_seconds(given), watch, console.print)
    builder = cache(lambda: Builder(model, watch, SEED, steps(given)))
    baseline = bench.baseline()
    found: dict[str, Mapping[str, Any]] = {}
    for entry in chosen:
        found[entry.label] = row = bench.row(entry, builder)
        if row["failed"] is not None:
            console.print(f"  [yellow]{entry.label}[/yellow]: {row['failed'].splitlines()[0]}")
    alive = [entry for entry in chosen if found[entry.label]["failed"] is None]
    race: Race | None = None
    if alive:
        with share(f"{model.name}: {len(alive)} artifacts in turns") as progress:
            race = bench.race(alive, progress)
    groups = groups_of(model)
    told = {
        "title": model.title,
        "size": model.size,
        "calibration": sum(len(batch.target) for batch in model.calibration),
        "n": len(baseline["scores"]),
        "steps": {entry.label: [repr(step) for step in entry.steps] for entry in chosen},
        "groups": None if groups is None else len(set(groups.tolist())),
        "baseline": sum(baseline["scores"]) / len(baseline["scores"]),
    }
    return rows_of(model, chosen, found, baseline, race), told


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--rows", nargs="+", default=[], help="only rows whose labels hold one")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--cache", type=Path, default=CACHE, help="trained heads, weights")
    parser.add_argument("--work", type=Path, default=ROOT / "burnish-runs" / "quantize_table")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="few samples: does it work at all")
    parser.add_argument("--output", type=Path, help=f"default {RESULT}; with --quick: none")
    parser.add_argument("--docs", action="store_true", help=f"only write {PAGE.name} from the JSON")
    given = parser.parse_args(arguments)
    partial = given.quick or given.rows or len(given.model) < len(NAMES)
    given.output = given.output or (None if partial else RESULT)
    return given


def document(result: Path) -> dict[str, Any]:
    """A result with the rows of later runs."""
    others = (RESULT.with_name(f"{RESULT.stem}--{name}.json") for name in LATER)
    paths = [result, *(path for path in others if path.is_file())]
    first, *later = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
    return renewed(first, *later)


def write_page(result: Path) -> None:
    """docs/methods/quantize_table.md from a result."""
    PAGE.write_text(page(document(result)), encoding="utf-8")
    console.print(f"Page: {PAGE}")


def run(given: argparse.Namespace) -> None:
    """Measure and write, or write the page alone."""
    if given.docs:
        write_page(given.output or RESULT)
        return
    measured = measure(given)
    console.print(page(measured), markup=False, highlight=False)
    if given.output is None:
        return
    write_result(measured, given.output)
    if given.output == RESULT:
        write_page(RESULT)


def main() -> int:
    """Run the benchmark; the exit code is 0 also where a claim is missed: that is a result."""
    try:
        run(parse())
    except BurnishError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

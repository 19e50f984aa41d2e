"""4-bit weights: GPTQ and HQQ against rounding to nearest, onnxruntime's tool and NNCF's.

    python benchmarks/weight_only_vs_peers.py [--quick]

MiniLM-L6 with a head on Banking77. Every tool stores the same 36 linear layers of the encoder in
blocks of 32 with zero points, from the same calibration samples, each in a process of its own, the
peers in their own environment. Every file answers the test texts through the same worker; the
times are taken by turns. What the result holds is told in benchmarks/README.md.

Left out: the speed of the files (quantize_table.py has artifacts side by side).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
for _folder in (ROOT / "src", ROOT / "examples", ROOT / "benchmarks" / "peers"):
    sys.path.insert(0, str(_folder))

from models import Sources, load  # noqa: E402
from models.model import CACHE, DATA  # noqa: E402
from ptq.environment import peers_python  # noqa: E402
from ptq.tasks import prepare  # noqa: E402
from ptq.tools import ToolFailed, Tools, pin  # noqa: E402
from result import write_result  # noqa: E402
from weights import runs  # noqa: E402
from weights.claims import (  # noqa: E402
    Scores,
    quality_claims,
    rounding_claims,
    time_claims,
)

from burnish.bench import Environment  # noqa: E402
from burnish.errors import BurnishError  # noqa: E402

SEED = 0
CALIBRATION, QUICK = 128, 16  # samples: as many as ours looks at, and NNCF by default
MODEL = "minilm"
FLOAT = "float32"
T = TypeVar("T")
console = Console(width=None if sys.stdout.isatty() else 160)


def watch(items: Iterable[T], title: str) -> Iterable[T]:
    """A progress bar around an iterable."""
    return track(items, title, console=console)


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Everything, as the document that is committed."""
    pin(given.threads)
    torch.set_num_threads(given.threads)
    start = time.monotonic()
    sources = Sources(given.data, given.cache, given.num_test, SEED, watch)
    model = load(MODEL, sources)
    work = given.work.resolve()
    tools = Tools.here(peers_python(given.env.absolute()), work, given.threads)
    task, reference = prepare(model, sources, work, given.threads)
    task = replace(task, num_calibration=QUICK if given.quick else CALIBRATION)
    task.save()
    reference = reference.with_options(threads=given.threads)
    entries, done, failed = runs.quantize_all(tools, watch)
    whole = runs.logits(reference, model, watch, FLOAT)
    found = {FLOAT: runs.judged(whole, whole, model)}
    for entry in entries:
        made = runs.artifact(reference, entry)
        try:
            got = runs.logits(made, model, watch, entry.label)
        except BurnishError as error:
            failed[entry.label] = str(error)
            continue
        found[entry.label] = runs.judged(got, whole, model)
    seconds = runs.seconds_by_turns(tools, list(done), given.repeats, watch)
    return {
        "schema": 1,
        "benchmark": "weight_only_vs_peers",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - start, 1),
        "environment": Environment.capture().to_json(),
        "peers": {item["tool"]: item["versions"] for item in done.values()},
        "settings": {
            "seed": SEED,
            "threads": given.threads,
            "quick": given.quick,
            "model": MODEL,
            "calibration": task.num_calibration,
            "validation": len(whole),
            "tools": {item["tool"]: item["settings"] for item in done.values()},
        },
        "rows": rows(found),
        "quantizing": seconds,
        "once": {item["tool"]: item["seconds"] for item in done.values()},
        "failed": failed,
        "claims": [*rounding_claims(found), *quality_claims(found), *time_claims(seconds)],
    }


def rows(found: Scores) -> list[dict[str, Any]]:
    """The means of each file's scores."""
    return [
        {"label": label, **{score: float(values.mean()) for score, values in scores.items()}}
        for label, scores in found.items()
    ]


def show(document: dict[str, Any]) -> None:
    """The table, and the claims."""
    table = Table(title=f"{MODEL}, 4-bit weights in blocks of 32")
    for name in ("file", "top-1", "agreement", "divergence"):
        table.add_column(name)
    for row in document["rows"]:
        figures = (row["top1"], row["agreement"], -row["closeness"])
        table.add_row(row["label"], *(f"{figure:.4f}" for figure in figures))
    console.print(table)
    for name, times in document["quantizing"].items():
        listed = ", ".join(f"{value:.2f}" for value in times)
        console.print(f"{name}: {listed} s", highlight=False)
    for item in document["claims"]:
        value = "no data" if item["value"] is None else f"{item['value']:.4f}"
        interval = f" [{item['low']:.4f}, {item['high']:.4f}]" if "low" in item else ""
        state = "[green]met[/green]   " if item["met"] else "[red]MISSED[/red]"
        console.print(f"{state} {item['claim']}: {value}{interval}", highlight=False)
    for name, reason in document["failed"].items():
        console.print(f"{name}: {reason}", style="red", markup=False, highlight=False)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--cache", type=Path, default=CACHE, help="the trained head, weights")
    parser.add_argument("--env", type=Path, default=ROOT / ".venv-peers", help="peers' packages")
    parser.add_argument("--work", type=Path, default=ROOT / "burnish-runs" / "weight_only_vs_peers")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="few texts: does it work at all")
    results = ROOT / "benchmarks" / "results" / "weight_only_vs_peers.json"
    parser.add_argument("--output", type=Path, help=f"default {results}; with --quick: none")
    given = parser.parse_args(arguments)
    given.num_test, given.repeats = (96, 1) if given.quick else (None, 3)
    given.output = given.output or (None if given.quick else results)
    return given


def main() -> int:
    """Run the benchmark; the exit code is 0 also where a claim is missed: that is a result."""
    given = parse()
    try:
        document = measure(given)
    except (BurnishError, ToolFailed) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    show(document)
    if given.output is not None:
        write_result(document, given.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How far a latency table's predictions are from the truth, on networks it has not seen.

    python benchmarks/latency_table.py [--networks NAME ...] [--runtimes NAME ...] [--variants N]

For each network and runtime a table is built from the original and a few anchors of drawn widths.
Then further variants, drawn from other seeds, are predicted, and after that traced, exported and
raced. Every second variant has widths in multiples of 8, the others any. The result tells each
prediction with its interval beside the measured median, and how the errors lie.

Left out: batches above 1, and precisions other than float32.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import Progress, track

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from latency.networks import NAMES, TITLES, draw  # noqa: E402
from result import write_result  # noqa: E402

from burnish.bench import Environment, race  # noqa: E402
from burnish.errors import BurnishError  # noqa: E402
from burnish.graph import Traced, trace  # noqa: E402
from burnish.profile import LatencyTable, shapes  # noqa: E402
from burnish.profile._latency_graph import inputs_of  # noqa: E402
from burnish.runtimes import export  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "latency_table.json"
RUNTIMES = ("onnxruntime", "openvino")
STEPS = (8, 1)  # widths are multiples of
NUM_ANCHORS = 6  # drawn ones, beside the original
FIRST_ANCHOR, FIRST_VARIANT = 1000, 5000  # seeds; none of these were seen while tables were made
MEDIAN_BOUND, WORST_BOUND = 0.10, 0.25
RACE_SECONDS = 4.0
T = TypeVar("T")
console = Console(width=None if sys.stdout.isatty() else 160)


@dataclass(frozen=True)
class Settings:
    """What a run measures, and how."""

    networks: tuple[str, ...]
    runtimes: tuple[str, ...]
    variants: int
    anchors: int
    threads: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """A plain dict."""
        return {
            "networks": list(self.networks),
            "runtimes": list(self.runtimes),
            "variants": self.variants,
            "anchors": self.anchors + 1,
            "threads": self.threads,
            "race_seconds": self.seconds,
            "batch": 1,
            "precision": "float32",
            "steps": list(STEPS),
        }


def watch(items: Iterable[T], title: str, total: int | None = None) -> Iterable[T]:
    """A progress bar around an iterable."""
    return track(items, title, total=total, console=console, transient=True)


def traced(name: str, seed: int | None, step: int = 1) -> Traced:
    """A drawn network's graph."""
    drawn = draw(name, seed, step)
    return trace(drawn.network, drawn.example)


def run(settings: Settings) -> dict[str, Any]:
    """The result as a plain dict."""
    start = time.monotonic()
    tables, rows = [], []
    for name in settings.networks:
        seeds = [(FIRST_ANCHOR + i, STEPS[i % len(STEPS)]) for i in range(settings.anchors)]
        anchors = [
            traced(name, *item) for item in watch([(None, 1), *seeds], f"{name}: tracing anchors")
        ]
        built = {}
        for runtime in settings.runtimes:
            begin = time.monotonic()
            built[runtime] = _table(name, runtime, anchors, settings)
            seconds = time.monotonic() - begin
            tables.append(_table_row(name, runtime, built[runtime], seconds))
        for index in watch(range(settings.variants), f"{name}: variants"):
            step = STEPS[index % len(STEPS)]
            rows += _variant(name, FIRST_VARIANT + index, step, built, settings)
    return {
        "schema": 1,
        "benchmark": "latency_table",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": Environment.capture().to_json(),
        "settings": settings.to_json(),
        "tables": tables,
        "rows": rows,
        "claims": claims(rows),
        "seconds": round(time.monotonic() - start, 1),
    }


def _table(name: str, runtime: str, anchors: Sequence[Traced], settings: Settings) -> LatencyTable:
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(f"{name}: table for {runtime}", total=1.0)
        found = [shape for anchor in anchors for shape in shapes(anchor, 1).values()]
        return LatencyTable.build(
            runtime,
            found,
            anchors=anchors,
            threads=settings.threads,
            seconds=settings.seconds,
            progress=lambda share: bar.update(task, completed=share),
        )


def _table_row(name: str, runtime: str, table: LatencyTable, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.json"
        table.save(path)
        LatencyTable.open(path)
        size = path.stat().st_size
    return {
        "network": name,
        "runtime": runtime,
        "build_seconds": round(seconds, 1),
        "num_measured": table.num_measured,
        "spread": table.correction.spread,
        "file_bytes": size,
    }


def _variant(
    name: str,
    seed: int,
    step: int,
    tables: Mapping[str, LatencyTable],
    settings: Settings,
) -> list[dict[str, Any]]:
    model = traced(name, seed, step)
    inputs = inputs_of(model, 1)
    with tempfile.TemporaryDirectory(prefix="burnish-") as folder:
        artifacts = {
            runtime: export(model, runtime, Path(folder) / runtime).with_options(
                threads=settings.threads
            )
            for runtime in tables
        }
        result = race(artifacts, inputs, seconds=settings.seconds * len(tables), seed=seed)
    rows = []
    for runtime, table in tables.items():
        predicted = table.predict(model)
        value, low, high = result.latency(runtime)
        rows.append(
            {
                "network": name,
                "runtime": runtime,
                "seed": seed,
                "step": step,
                "predicted_ms": predicted.seconds * 1e3,
                "predicted_low_ms": predicted.low * 1e3,
                "predicted_high_ms": predicted.high * 1e3,
                "measured_ms": value * 1e3,
                "measured_low_ms": low * 1e3,
                "measured_high_ms": high * 1e3,
                "error": predicted.seconds / value - 1,
                "inside": predicted.low <= value <= predicted.high,
                "extrapolated": list(predicted.extrapolated),
            }
        )
    return rows


def claims(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is claimed of the errors, for each runtime and network, and for a runtime's all."""
    found = []
    for runtime in dict.fromkeys(row["runtime"] for row in rows):
        own = [row for row in rows if row["runtime"] == runtime]
        names = dict.fromkeys(row["network"] for row in own)
        for title, some in [
            *((TITLES[name], [row for row in own if row["network"] == name]) for name in names),
            ("all networks", own),
        ]:
            errors = [abs(row["error"]) for row in some]
            for what, value, bound in (
                ("median", median(errors), MEDIAN_BOUND),
                ("worst", max(errors), WORST_BOUND),
            ):
                claim = f"{what} error of {len(errors)} predictions on {runtime}, {title}"
                found.append(
                    {"claim": claim, "value": value, "bound": bound, "met": value <= bound}
                )
    return found


def _print(result: Mapping[str, Any]) -> None:
    for claim in result["claims"]:
        word = "met" if claim["met"] else "MISSED"
        console.print(
            f"{word:6} {claim['value']:.1%} (at most {claim['bound']:.0%}) {claim['claim']}"
        )


def main() -> None:
    """Parse, run, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--variants", type=int, default=20, help="of each network")
    parser.add_argument("--anchors", type=int, default=NUM_ANCHORS, help="beside the original")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=RACE_SECONDS, help="of each race")
    parser.add_argument("--output", type=Path, default=RESULT)
    given = parser.parse_args()
    settings = Settings(
        tuple(given.networks),
        tuple(given.runtimes),
        given.variants,
        given.anchors,
        given.threads,
        given.seconds,
    )
    try:
        result = run(settings)
    except BurnishError as error:
        raise SystemExit(f"latency_table: {error}") from error
    write_result(result, given.output)
    _print(result)


if __name__ == "__main__":
    main()

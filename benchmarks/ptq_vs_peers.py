"""Post-training int8 quantization: Burnish against NNCF, onnxruntime's own tool, torchao, Brevitas.

    python benchmarks/ptq_vs_peers.py [--models NAME ...] [--quick]

Every tool quantizes the same network with the same samples, each in a process of its own, the peers
in a second environment that is built on the first run. Then every file is raced on every runtime
that reads it, interleaved, on the same threads, and answers the samples that calibrated nothing.
Learned rounding at 4-bit weights is simulated and compared with Brevitas's. What we claim is worked
out from that, met or missed. What the result holds is told in benchmarks/README.md.

Left out: techniques side by side (quantize_table.py has them).
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

ROOT = Path(__file__).resolve().parents[1]
for _folder in (ROOT / "src", ROOT / "examples", ROOT / "benchmarks" / "peers"):
    sys.path.insert(0, str(_folder))

from models import NAMES, Sources, load  # noqa: E402
from models.model import CACHE, DATA  # noqa: E402
from ptq import claims as claiming  # noqa: E402
from ptq.comparison import Part, compare  # noqa: E402
from ptq.costs import memory  # noqa: E402
from ptq.environment import peers_python  # noqa: E402
from ptq.measure import BATCHES, Effort, Telling  # noqa: E402
from ptq.rounding import rounding, rounding_claims  # noqa: E402
from ptq.table import show  # noqa: E402
from ptq.tasks import prepare  # noqa: E402
from ptq.tools import ToolFailed, Tools, pin  # noqa: E402
from result import write_result  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from burnish.bench import Environment  # noqa: E402
from burnish.errors import BurnishError  # noqa: E402

SEED = 0
PARTS = ("compare", "memory", "rounding")
MEASURED = ("lite0", "resnet20")  # whose peak memory is; needs many samples
ROUNDED = ("resnet20",)
T = TypeVar("T")
console = Console(width=None if sys.stdout.isatty() else 160)

LITE0 = Effort(repeats=5, seconds={1: 45.0, 16: 90.0}, rounds=20, num_test=None)
OTHERS = Effort(repeats=3, seconds={1: 25.0, 16: 40.0}, rounds=20, num_test=None)
QUICK = Effort(repeats=2, seconds={1: 4.0, 16: 4.0}, rounds=8, num_test=96)


def watch(items: Iterable[T], title: str) -> Iterable[T]:
    """A progress bar around an iterable."""
    return track(items, title, console=console)


def effort_of(name: str, quick: bool) -> Effort:
    """Most time goes to Lite0, whose ratios are the closest."""
    return QUICK if quick else (LITE0 if name == "lite0" else OTHERS)


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Everything, as the document that is committed."""
    pin(given.threads)
    torch.set_num_threads(given.threads)
    start = time.monotonic()
    tools = Tools.here(peers_python(given.env.absolute()), given.work.resolve(), given.threads)
    built = round(time.monotonic() - start, 1)
    parts: dict[str, Part] = {}
    peaks: list[dict[str, Any]] = []
    rounded: list[dict[str, Any]] = []
    for name in given.models:
        effort = effort_of(name, given.quick)
        sources = Sources(given.data, given.cache, effort.num_test, SEED, watch)
        model = load(name, sources)
        if "compare" in given.parts:
            part, task = compare(model, sources, tools, effort, Telling(console, watch))
        else:
            part, (task, _) = Part(), prepare(model, sources, tools.work / name, tools.threads)
        parts[name] = part
        there = replace(tools, work=task.work)
        if name in MEASURED and "memory" in given.parts and not given.quick:
            with part.timed("memory"):
                peaks += memory(there, name, watch)
        if name in ROUNDED and "rounding" in given.parts:
            save_file(model.network.state_dict(), task.work / "network.safetensors")
            with part.timed("learned rounding"):
                rows, failed = rounding(there, model, *given.rounding, watch)
            rounded += rows
            part.failed |= failed
    claims = [item for part in parts.values() for item in part.claims]
    claims += claiming.memory_claims(peaks)
    if rounded:
        claims += rounding_claims(rounded)
    return {
        "schema": 2,
        "benchmark": "ptq_vs_peers",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": {"environment": built} | {name: part.phases for name, part in parts.items()},
        "environment": Environment.capture().to_json(),
        "peers": {tool: kept for part in parts.values() for tool, kept in part.tools.items()},
        "settings": {
            "seed": SEED,
            "threads": given.threads,
            "quick": given.quick,
            "race_seconds": {
                name: {str(batch): effort_of(name, given.quick).seconds[batch] for batch in BATCHES}
                for name in parts
            },
            "models": {name: part.settings for name, part in parts.items()},
        },
        "quantizing": {name: part.quantizing for name, part in parts.items()},
        "memory": peaks,
        "rounding": rounded,
        "rows": [row for part in parts.values() for row in part.rows],
        "failed_tools": {name: part.failed for name, part in parts.items() if part.failed},
        "claims": claims,
    }


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--cache", type=Path, default=CACHE, help="trained heads, weights")
    parser.add_argument("--env", type=Path, default=ROOT / ".venv-peers", help="peers' packages")
    parser.add_argument("--work", type=Path, default=ROOT / "burnish-runs" / "ptq_vs_peers")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="few rounds: does it work at all")
    results = ROOT / "benchmarks" / "results" / "ptq_vs_peers.json"
    parser.add_argument("--output", type=Path, help=f"default {results}; with --quick: none")
    given = parser.parse_args(arguments)
    given.rounding = (96, 20) if given.quick else (10_000, 1000)
    whole = len(given.models) == len(NAMES) and len(given.parts) == len(PARTS)
    partial = given.quick or not whole
    given.output = given.output or (None if partial else results)
    return given


def main() -> int:
    """Run the benchmark; the exit code is 0 also where a claim is missed: that is a result."""
    given = parse()
    try:
        document = measure(given)
    except (BurnishError, ToolFailed) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    show(document, console)
    for name, failed in document["failed_tools"].items():
        for tool, reason in failed.items():
            console.print(f"{name}, {tool}: {reason}", style="red", markup=False, highlight=False)
    if given.output is not None:
        write_result(document, given.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())

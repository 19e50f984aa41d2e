"""Whether operators' times add up to the model's: four networks on three runtimes.

    python benchmarks/attribution.py [--network NAME ...] [--quick]

Each network is exported once for every runtime. A worker counts, in turns with runs that are not
counted, and the kernels' times are given to the operators of the network: `share` is the operators'
sum over the whole run. Nothing is scaled; what kernels belong to no operator and what no kernel
accounts for have their own lines. A race of the three artifacts gives the whole once more, measured
the way it is reported elsewhere.

Weights are drawn, not trained: they do not decide what an operator costs.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
for _folder in (ROOT / "src", ROOT / "examples"):
    sys.path.insert(0, str(_folder))

from efficientnet_lite0 import pretrained  # noqa: E402
from networks.gru import WindowClassifier  # noqa: E402
from networks.minilm import Classifier  # noqa: E402
from networks.resnet20 import ResNet20  # noqa: E402
from result import write_result  # noqa: E402

from burnish.bench import Environment, race  # noqa: E402
from burnish.bundle import Artifact, Counts, Worker  # noqa: E402
from burnish.errors import BurnishError  # noqa: E402
from burnish.graph import Traced, operator_names, trace  # noqa: E402
from burnish.runtimes import Attributed, attribute, export  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "attribution.json"
RUNTIMES = ("eager", "onnxruntime", "openvino")
BOUND = 0.05
CLAIMED = "lite0"
SEED = 0
ROUNDS, ROUND_SECONDS, RACE_SECONDS = 7, 2.0, 12.0
QUICK_ROUNDS, QUICK_SECONDS = 2, 0.3
Arrays = Mapping[str, Any]


@dataclass(frozen=True)
class Network:
    """A network to be: what it is, how it is made, and the tensors of a call of two samples."""

    title: str
    make: Callable[[], nn.Module]
    example: Callable[[], tuple[torch.Tensor, ...]]


NETWORKS = {
    "lite0": Network(
        "EfficientNet-Lite0, 3 × 224 × 224", pretrained, lambda: (torch.randn(2, 3, 224, 224),)
    ),
    "resnet20": Network("ResNet-20, 3 × 32 × 32", ResNet20, lambda: (torch.randn(2, 3, 32, 32),)),
    "minilm": Network(
        "MiniLM-L6, 64 tokens",
        lambda: Classifier(77),
        lambda: (torch.randint(1, 30000, (2, 64)), torch.ones(2, 64, dtype=torch.int64)),
    ),
    "gru": Network(
        "GRU of two layers, 64 × 6",
        lambda: WindowClassifier(6, 7),
        lambda: (torch.randn(2, 64, 6),),
    ),
}


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """All networks, as the document that is committed."""
    torch.set_num_threads(given.threads)
    start = time.monotonic()
    rows = [row for name in given.network for row in rows_of(name, given)]
    return {
        "schema": 1,
        "benchmark": "attribution",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - start, 1),
        "environment": Environment.capture().to_json(),
        "settings": {
            "seed": SEED,
            "batch": 1,
            "threads": given.threads,
            "quick": given.quick,
            "rounds": QUICK_ROUNDS if given.quick else ROUNDS,
            "round_seconds": QUICK_SECONDS if given.quick else ROUND_SECONDS,
            "race_seconds": QUICK_SECONDS if given.quick else RACE_SECONDS,
        },
        "networks": {name: NETWORKS[name].title for name in given.network},
        "rows": rows,
        "claims": [claim(row) for row in rows if row["network"] == CLAIMED],
    }


def rows_of(name: str, given: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each runtime."""
    torch.manual_seed(SEED)
    network, example = NETWORKS[name].make().eval(), NETWORKS[name].example()
    traced = trace(network, example)
    arrays = {
        slot.name: tensor[:1].numpy() for slot, tensor in zip(traced.inputs, example, strict=True)
    }
    with tempfile.TemporaryDirectory(prefix="burnish-") as folder:
        artifacts = {
            runtime: export(traced, runtime, Path(folder) / runtime).with_options(
                threads=given.threads
            )
            for runtime in RUNTIMES
        }
        counts = {
            runtime: counted(artifact, arrays, given) for runtime, artifact in artifacts.items()
        }
        seconds = QUICK_SECONDS if given.quick else RACE_SECONDS
        raced = race(artifacts, arrays, seconds=seconds, seed=SEED)
    p50 = {timing.label: timing.p50 for timing in raced.timings}
    return [row_of(name, runtime, traced, counts[runtime], p50[runtime]) for runtime in RUNTIMES]


def counted(artifact: Artifact, arrays: Arrays, given: argparse.Namespace) -> list[Counts]:
    """One count a round, each of about a round's seconds."""
    rounds, seconds = (QUICK_ROUNDS, QUICK_SECONDS) if given.quick else (ROUNDS, ROUND_SECONDS)
    with Worker(artifact) as worker:
        worker.time(arrays, repeats=5)
        single = statistics.median(worker.time(arrays, repeats=10).tolist())
        repeats = max(8, math.ceil(seconds / 2 / single))  # half of the runs are not counted
        return [worker.count(arrays, repeats=repeats) for _ in range(rounds)]


def row_of(
    network: str, runtime: str, traced: Traced, rounds: Sequence[Counts], p50: float
) -> dict[str, Any]:
    """What became of a run's time; milliseconds are medians over the rounds."""
    names = list(operator_names(traced.graph_module).values())
    given = [attribute(count.times, names) for count in rounds]
    sums = [math.fsum(found.seconds.values()) for found in given]
    shares = sorted(part / count.seconds for part, count in zip(sums, rounds, strict=True))
    middle = rounds[shares.index(statistics.median_low(shares))]
    return {
        "network": network,
        "runtime": runtime,
        "whole_ms": _ms(count.seconds for count in rounds),
        "counted_whole_ms": _ms(count.counted_seconds for count in rounds),
        "race_p50_ms": 1e3 * p50,
        "operators_ms": _ms(sums),
        "rest_ms": _ms(math.fsum(item.seconds for item in found.rest) for found in given),
        "outside_ms": _ms(count.outside for count in rounds),
        "share": statistics.median(shares),
        "low": shares[0],
        "high": shares[-1],
        "share_of_race": statistics.median(sums) / p50,
        "num_kernels": len(middle.times),
        "num_operators": len(given[0].seconds),
        "num_fused": len(given[0].fused),
        "rest": rest_of(given[0]),
    }


def rest_of(found: Attributed) -> list[dict[str, Any]]:
    """Kernels that belong to no operator, the longest first."""
    ordered = sorted(found.rest, key=lambda item: -item.seconds)
    return [{"name": i.name, "kind": i.kind, "us": 1e6 * i.seconds} for i in ordered]


def _ms(seconds: Any) -> float:
    return 1e3 * statistics.median(seconds)


def claim(row: Mapping[str, Any]) -> dict[str, Any]:
    """The claim on one runtime."""
    return {
        "claim": f"{NETWORKS[row['network']].title} on {row['runtime']}: the operators' times sum "
        f"to within {BOUND:.0%} of the whole run",
        "value": row["share"],
        "low": row["low"],
        "high": row["high"],
        "bound": BOUND,
        "met": abs(row["share"] - 1) <= BOUND,
    }


def table(document: Mapping[str, Any]) -> str:
    """The rows, for people."""
    head = ("network", "runtime", "whole ms", "operators", "rest", "outside", "share", "of race")
    lines = [" ".join(f"{text:>11}" for text in head)]
    for row in document["rows"]:
        parts = [row[f"{name}_ms"] for name in ("whole", "operators", "rest", "outside")]
        lines.append(
            f"{row['network']:>11} {row['runtime']:>11} "
            + " ".join(f"{part:11.3f}" for part in parts)
            + f" {row['share']:11.3f} {row['share_of_race']:11.3f}"
        )
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a few runs: does it work at all")
    parser.add_argument("--output", type=Path, help=f"default {RESULT}; with --quick: none")
    given = parser.parse_args(arguments)
    partial = given.quick or len(given.network) < len(NETWORKS)
    given.output = given.output or (None if partial else RESULT)
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit code is 0 also where a claim is missed: that is a result."""
    given = parse(arguments)
    try:
        document = measure(given)
    except BurnishError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    print(table(document))
    if given.output is not None:
        write_result(document, given.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())

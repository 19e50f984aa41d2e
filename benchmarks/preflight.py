"""Whether a preflight foresees what is found: four networks, every move really made.

    python benchmarks/preflight.py [--network NAME ...]

Each network is asked about first, on a machine that knows nothing of it. Then every move that can
be made without training is made: the runtimes, bfloat16, another memory layout, one thread, static
int8 with its calibration (on random inputs: only time is asked for), compiling. All artifacts are
raced together, and each prediction is put beside what the race found. The claims: the move advised
first is truly the best of the moves made in three of four networks, and asking about ResNet-50
takes under 30 seconds.

Weights are drawn, not trained: they do not decide what an operator costs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from networks.gru import WindowClassifier  # noqa: E402
from networks.minilm import Classifier  # noqa: E402
from networks.mobilenet import MobileNetV2  # noqa: E402
from networks.resnet import resnet18, resnet50  # noqa: E402
from result import write_result  # noqa: E402

from burnish.bench import Environment, Race, race  # noqa: E402
from burnish.bundle import Artifact  # noqa: E402
from burnish.errors import BurnishError, RuntimeFailed, Unreliable  # noqa: E402
from burnish.goal import Inputs  # noqa: E402
from burnish.graph import Traced, trace  # noqa: E402
from burnish.hardware import detect  # noqa: E402
from burnish.profile import Preflight, preflight  # noqa: E402
from burnish.quantize import quantize_static  # noqa: E402
from burnish.runtimes import available, export  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "preflight.json"
SEED = 0
CALIBRATION = 8  # batches of two
SECONDS = 2.0  # of racing, for each artifact
BOUND_SECONDS, BOUND_RIGHT = 30.0, 3
console = Console(width=None if sys.stdout.isatty() else 160)


@dataclass(frozen=True)
class Network:
    """A network to be, and how the tensors of a call of so many samples are drawn."""

    title: str
    make: Callable[[], nn.Module]
    draw: Callable[[int], tuple[torch.Tensor, ...]]


def _images(num: int) -> tuple[torch.Tensor, ...]:
    return (torch.randn(num, 3, 224, 224),)


def _texts(num: int) -> tuple[torch.Tensor, ...]:
    return torch.randint(1, 30000, (num, 64)), torch.ones(num, 64, dtype=torch.int64)


NETWORKS = {
    "resnet18": Network("ResNet-18, 3 × 224 × 224", resnet18, _images),
    "mobilenetv2": Network("MobileNetV2, 3 × 224 × 224", MobileNetV2, _images),
    "minilm": Network("MiniLM-L6, 64 tokens", lambda: Classifier(77), _texts),
    "gru": Network(
        "GRU of two layers, 64 × 6",
        lambda: WindowClassifier(6, 7),
        lambda num: (torch.randn(num, 64, 6),),
    ),
}


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """All networks, as the document that is committed."""
    start = time.monotonic()
    rows = [row_of(name) for name in given.network]
    console.print("asking about ResNet-50")
    torch.manual_seed(SEED)
    large = preflight(resnet50(), Inputs(_images(1)), seed=SEED)
    return {
        "schema": 1,
        "benchmark": "preflight",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - start, 1),
        "environment": Environment.capture().to_json(),
        "settings": {
            "seed": SEED,
            "batch": 1,
            "threads": detect().cores,
            "calibration": CALIBRATION,
            "race_seconds_each": SECONDS,
        },
        "networks": {name: NETWORKS[name].title for name in given.network},
        "rows": rows,
        "resnet50": large.to_json(),
        "claims": claims(rows, large),
    }


def row_of(name: str) -> dict[str, Any]:
    """One network: asked about, then every move made."""
    network = NETWORKS[name]
    torch.manual_seed(SEED)
    model = network.make().eval()
    inputs = Inputs(network.draw(1))
    console.print(f"{network.title}: asking")
    foreseen = preflight(model, inputs, seed=SEED)
    console.print(f"{network.title}: making the moves")
    with tempfile.TemporaryDirectory() as folder:
        failed: dict[str, str] = {}
        artifacts = dict(moves(model, network, Path(folder), failed))
        arrays = _arrays(trace(model, network.draw(2)), network)
        seconds = SECONDS * len(artifacts)
        found = race(artifacts, arrays, seconds=seconds, seed=SEED)
    judged = foreseen.with_found(dict(_ratios(found, foreseen.reference)))
    return {
        "network": name,
        "preflight": judged.to_json(),
        "best": best(judged),
        "failed": failed,
        "race": found.to_json(),
    }


def moves(
    model: nn.Module, network: Network, folder: Path, failed: dict[str, str]
) -> Iterator[tuple[str, Artifact]]:
    """Every move made, by the name a preflight calls it; eager float32 first."""
    threads = detect().cores
    traced = trace(model, network.draw(2))
    eager = export(traced, "eager", folder / "eager").with_options(threads=threads)
    yield "eager float32", eager
    if len(traced.inputs[0].shape) == 4:
        yield "channels-last in eager", eager.with_options(layout="channels_last")
    for runtime in ("onnxruntime", "openvino"):
        plain = export(traced, runtime, folder / runtime).with_options(threads=threads)
        yield f"float32 in {runtime}", plain
        if threads > 1:
            yield f"1 thread in {runtime}", plain.with_options(threads=1)
        if runtime == "openvino" and detect().supports_bfloat16:
            yield "bfloat16 in openvino", plain.with_options(execution="bfloat16")
        try:
            artifact = _in_int8(model, network, runtime, folder / f"{runtime}-int8")
        except BurnishError as error:
            failed[f"int8 in {runtime}"] = str(error)
        else:
            yield f"int8 in {runtime}", artifact.with_options(threads=threads)
    if available()["inductor"] is None:
        compiled = export(traced, "inductor", folder / "inductor")
        yield "compiled by inductor", compiled.with_options(threads=threads)


def _in_int8(model: nn.Module, network: Network, runtime: str, folder: Path) -> Artifact:
    calibration = [network.draw(2) for _ in range(CALIBRATION)]
    quantized = quantize_static(model, calibration, runtime=runtime)
    assert isinstance(quantized, Traced)
    return export(quantized, runtime, folder, precision="int8")


def _arrays(traced: Traced, network: Network) -> Mapping[str, Any]:
    tensors = network.draw(1)
    return {s.name: t.numpy() for s, t in zip(traced.inputs, tensors, strict=True)}


def _ratios(found: Race, reference: str) -> Iterator[tuple[str, Any]]:
    for timing in found.timings:
        if timing.label != reference:
            try:
                yield timing.label, found.ratio(timing.label, reference)
            except (RuntimeFailed, Unreliable):
                continue


def best(judged: Preflight) -> str | None:
    """The fastest move of those made."""
    found = {one.move: one.found.value for one in judged.answers if one.found is not None}
    return min(found, key=lambda move: found[move], default=None)


def claims(rows: Sequence[Mapping[str, Any]], large: Preflight) -> list[dict[str, Any]]:
    """The first move is the best in three of four; ResNet-50 is asked about in half a minute."""
    right = [row["network"] for row in rows if row["best"] == row["preflight"]["first_move"]]
    found = [
        {
            "claim": f"the move advised first is the best of those made, of {len(rows)} networks",
            "value": len(right),
            "bound": BOUND_RIGHT,
            "met": len(right) >= BOUND_RIGHT,
            "networks": right,
        },
        {
            "claim": "asking about ResNet-50 takes under 30 s",
            "value": round(large.seconds, 1),
            "bound": BOUND_SECONDS,
            "met": large.seconds < BOUND_SECONDS,
        },
    ]
    off = [abs(error) for row in rows for _, error, _ in errors(row["preflight"], "estimated")]
    inside = [held for row in rows for _, _, held in errors(row["preflight"], "estimated")]
    if off:
        found.append(
            {
                "claim": "for the record: error of estimated factors, median and worst",
                "value": [round(median(off), 3), round(max(off), 3)],
                "bound": None,
                "met": None,
                "in_range": f"{sum(inside)} of {len(inside)}",
            }
        )
    return found


def errors(record: Mapping[str, Any], how: str) -> list[tuple[str, float, bool]]:
    """(move, found over foreseen less one, whether it was in the range) of one kind of answer."""
    told = []
    for one in record["answers"]:
        factor, found = one["factor"], one["found"]
        if one["how"] == how and factor is not None and found is not None:
            held = factor["low"] <= found["value"] <= factor["high"]
            told.append((one["move"], found["value"] / factor["value"] - 1, held))
    return told


def show(document: Mapping[str, Any]) -> None:
    """The rows for a person."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("network", "move", "foreseen", "range", "how", "found"):
        table.add_column(name, no_wrap=True)
    for row in document["rows"]:
        for one in row["preflight"]["answers"]:
            factor, found = one["factor"], one["found"]
            if factor is None and found is None:
                continue
            mark = "→ " if one["move"] == row["preflight"]["first_move"] else "  "
            mark += "★ " if one["move"] == row["best"] else "  "
            table.add_row(
                row["network"],
                mark + one["move"],
                f"{1 / factor['value']:.2f}×" if factor else "–",
                f"{1 / factor['high']:.2f} to {1 / factor['low']:.2f}" if factor else "",
                one["how"],
                f"{1 / found['value']:.2f}×" if found else "not made",
            )
    console.print(table)
    console.print("→ advised first   ★ best of those made   (speeds against eager float32)")
    for claim in document["claims"]:
        word = {True: "met", False: "MISSED", None: "    "}[claim["met"]]
        console.print(f"{word}  {claim['claim']}: {claim['value']}", highlight=False)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--output", type=Path, help=f"default {RESULT}; with --network: none")
    given = parser.parse_args(arguments)
    if given.output is None and len(given.network) == len(NETWORKS):
        given.output = RESULT
    return given


def main() -> int:
    """Run it; the exit code is 0 also where a claim is missed: that is a result."""
    given = parse()
    document = measure(given)
    show(document)
    if given.output is not None:
        write_result(document, given.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())

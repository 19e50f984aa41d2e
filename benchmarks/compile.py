"""What channels-last and torch.compile are worth against the default runtimes: one race a network.

    python benchmarks/compile.py [--model NAME ...] [--batch N ...] [--seconds S]

For each network: eager, eager channels-last, inductor in float32 and bfloat16, and onnxruntime and
OpenVINO for comparison, all exported from one traced and folded graph, raced in turns. Beside the
times: how far the outputs are from the float network's, how long loading takes when nothing is
compiled yet and when it is loaded again for the race, and how the kernels fuse.
docs/profile/compile.md tells what came out.

Left out: quality on all validation data (casting is measured in quantize_table.py).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
for _folder in (ROOT / "src", ROOT / "examples"):
    sys.path.insert(0, str(_folder))

from models import Model, Sources, load  # noqa: E402
from models.model import CACHE, DATA  # noqa: E402

from burnish.bench import Environment, Race, race  # noqa: E402
from burnish.graph import Traced, flatten, trace  # noqa: E402
from burnish.quantize import cast, fold  # noqa: E402
from burnish.runtimes import Artifact, export  # noqa: E402
from burnish.runtimes import load as start  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "compile.json"
PAGE = ROOT / "docs" / "profile" / "compile.md"
BEGIN, END = "<!-- table: written by benchmarks/compile.py -->\n", "<!-- end of table -->"
NAMES = ("resnet20", "lite0", "minilm")
NUM_SAMPLES = 32
Arrays = Mapping[str, np.ndarray[Any, Any]]
# label: runtime, precision, layout
ENTRANTS = {
    "eager": ("eager", "float32", "contiguous"),
    "eager channels-last": ("eager", "float32", "channels_last"),
    "inductor": ("inductor", "float32", "contiguous"),
    "inductor channels-last": ("inductor", "float32", "channels_last"),
    "onnxruntime": ("onnxruntime", "float32", "contiguous"),
    "openvino": ("openvino", "float32", "contiguous"),
    "eager bfloat16": ("eager", "bfloat16", "contiguous"),
    "inductor bfloat16": ("inductor", "bfloat16", "contiguous"),
    "openvino bfloat16": ("openvino", "bfloat16", "contiguous"),
}
OTHERS = ("onnxruntime", "openvino")  # whose faster float32 is the reference


def entrants(model: Model, folder: Path, threads: int) -> dict[str, Artifact]:
    """Every artifact of a network that makes sense for it."""
    folded = fold(trace(model.network, tuple(model.inputs().args)))
    small = cast(folded, "bfloat16", model.calls())
    found = {}
    for label, (runtime, precision, layout) in ENTRANTS.items():
        if layout == "channels_last" and model.kind != "convolutional":
            continue
        is_cast = precision == "bfloat16" and runtime != "openvino"
        place = folder / label.replace(" ", "-")
        graph: Traced = small if is_cast else folded
        artifact = export(graph, runtime, place, precision=precision)
        found[label] = artifact.with_options(threads=threads, layout=layout)
    return found


def measure(model: Model, given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """The rows of one network: an artifact at a batch each."""
    os.environ["BURNISH_CACHE"] = str(folder / "cache")  # empty: nothing is compiled yet
    artifacts = entrants(model, folder, given.threads)
    rows = []
    for batch in given.batch:
        call = tuple(tensor[:batch] for tensor in model.validation[0].args)
        inputs = {
            port.name: tensor.numpy()
            for port, tensor in zip(artifacts["eager"].inputs, call, strict=True)
        }
        looked = {label: look(item, inputs) for label, item in artifacts.items()}
        raced = race(artifacts, inputs, seconds=given.seconds, batch=batch)
        with torch.inference_mode():
            wanted = [tensor.numpy() for tensor in flatten(model.network(*call))[0]]
        rows += [row(model, batch, label, looked[label], raced, wanted) for label in artifacts]
        for line in rows[-len(artifacts) :]:
            print(shown(line), flush=True)
    return rows


def look(artifact: Artifact, inputs: Arrays) -> dict[str, Any]:
    """Outputs, kernels, and how long loading takes before any kernel of it is kept."""
    with start(artifact) as worker:
        outputs, cold = worker.run(inputs), worker.load_seconds
        return {"outputs": outputs, "cold": cold, "counts": worker.count(inputs, repeats=20)}


def row(
    model: Model,
    batch: int,
    label: str,
    looked: Mapping[str, Any],
    raced: Race,
    wanted: Sequence[np.ndarray[Any, Any]],
) -> dict[str, Any]:
    """One line of the result."""
    reference = min(OTHERS, key=lambda name: raced.timing(name).p50)
    timing, ratio = raced.timing(label), raced.ratio(label, reference)
    p50, low, high = (1e3 * value for value in raced.latency(label))
    counts = looked["counts"]
    return {
        "model": model.name,
        "batch": batch,
        "label": label,
        "latency": {"p50_ms": p50, "low_ms": low, "high_ms": high},
        "ratio": {
            "reference": reference,
            "value": ratio.value,
            "low": ratio.low,
            "high": ratio.high,
        },
        "off": max(
            float(np.abs(mine - right).max() / np.abs(right).max())
            for mine, right in zip(looked["outputs"], wanted, strict=True)
        ),
        "size_mb": timing.size_bytes / 1e6,
        "memory_mb": timing.memory_bytes / 1e6,
        "load_s": {"first": looked["cold"], "again": timing.load_seconds},
        "kernels": len(counts.times),
        "operators": len({name for item in counts.times for name in item.members}),
        "kernel_share": sum(item.seconds for item in counts.times) / counts.seconds,
        "failed": timing.failed,
    }


def shown(line: Mapping[str, Any]) -> str:
    """A row for the eye."""
    latency, ratio, loading = line["latency"], line["ratio"], line["load_s"]
    return (
        f"{line['model']:9} batch {line['batch']:2} {line['label']:24} {latency['p50_ms']:8.3f} ms"
        f"  {ratio['value']:5.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}] of {ratio['reference']}"
        f"  off {line['off']:.1e}  load {loading['first']:.1f}, {loading['again']:.1f} s"
        f"  {line['kernels']} kernels of {line['operators']} operators"
    )


def write_table(document: Mapping[str, Any]) -> None:
    """Put the result into the page, between its marks."""
    environment, settings = document["environment"], document["settings"]
    lines = [
        f"{environment['machine']['cpu']}, {settings['threads']} threads:",
        "",
        "| network | batch | artifact | ms | ratio | off | load s | kernels |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in document["rows"]:
        ratio, loading, p50 = line["ratio"], line["load_s"], line["latency"]["p50_ms"]
        lines.append(
            f"| {line['model']} | {line['batch']} | {line['label']} | {p50:.2f} "
            f"| {ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}] | {line['off']:.0e} "
            f"| {loading['first']:.1f}, {loading['again']:.1f} | {line['kernels']} |"
        )
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    table = "\n".join(lines)
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--seconds", type=float, default=30.0, help="of each race")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--output", type=Path, default=RESULT)
    given = parser.parse_args()
    begun, rows = time.monotonic(), []
    for name in given.model:
        model = load(name, Sources(given.data, given.cache, NUM_SAMPLES))
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(model, given, Path(folder))
    document = {
        "schema": 1,
        "benchmark": "compile",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - begun, 1),
        "environment": Environment.capture().to_json(),
        "settings": {
            "threads": given.threads,
            "race_seconds": given.seconds,
            "compiler": os.environ.get("CXX", "g++"),
        },
        "rows": rows,
    }
    given.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if given.output == RESULT:
        write_table(document)


if __name__ == "__main__":
    main()

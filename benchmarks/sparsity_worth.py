"""What zeros in the weights are worth on this machine: time, file, and file once compressed.

    python benchmarks/sparsity_worth.py [--model NAME ...] [--quick] [--table FILE ...]

Each network is masked by magnitude in every pattern of `PATTERNS`, the masks are made part of the
weights, and the model is exported in float32 and in static int8 for each runtime. The artifacts of
one network, precision and runtime are raced in turns with the dense one; a ratio is time(sparse) /
time(dense). Files are packed by zlib and LZMA, as a download would be.

OpenVINO can keep sparse int8 weights of matrix products packed (`sparse_weights_decompression`).
Its source asks for AMX in the processor and multiples of 64 in both sizes of the weight. Whether it
applies here is not taken from that alone: the sparsest int8 artifact is compiled with the option
and without, and the kernels it chose are compared.

Left out: quality (pruning by magnitude in one go is not how one would keep it; times do not depend
on the values), batches above 1, and racing OpenVINO's option where no kernel changes by it.
"""

from __future__ import annotations

import argparse
import json
import lzma
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import openvino
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
for _folder in (ROOT / "src", ROOT / "examples"):
    sys.path.insert(0, str(_folder))

from models import Model, Sources, load  # noqa: E402
from models.model import CACHE, DATA  # noqa: E402
from ptq.claims import claim  # noqa: E402
from ptq.tools import pin  # noqa: E402
from result import write_result  # noqa: E402

from burnish.bench import Environment, race  # noqa: E402
from burnish.errors import BurnishError, NoEffect  # noqa: E402
from burnish.graph import Traced, trace  # noqa: E402
from burnish.hardware import detect  # noqa: E402
from burnish.prune import PruneWeights, masked_weights, remove_masks  # noqa: E402
from burnish.quantize import QuantizeStatic, calibrate, fold  # noqa: E402
from burnish.runtimes import Artifact, export  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "sparsity_worth.json"
MODELS = ("minilm", "resnet20")
RUNTIMES = ("onnxruntime", "openvino")
PRECISIONS = ("float32", "int8")
DENSE = "dense"
SEED = 0
FASTER = 0.95  # a ratio from which a pattern counts as faster
RACE_SECONDS, QUICK_SECONDS = 60.0, 3.0  # of one network, precision and runtime
SAMPLES = 64  # of the validation data, of which the first is timed
RATE = 0.5  # of OpenVINO's option: weights with as many zeros are packed


@dataclass(frozen=True)
class Zeros:
    """A pattern and its share of zeros."""

    pattern: str
    sparsity: float

    @property
    def label(self) -> str:
        """Its name in the table."""
        return f"{self.pattern} {self.sparsity:.0%}"

    def step(self) -> PruneWeights:
        """What masks so."""
        return PruneWeights(self.sparsity, self.pattern)


PATTERNS = (
    *(Zeros("unstructured", share) for share in (0.5, 0.8, 0.9)),
    Zeros("2:4", 0.5),
    *(Zeros(pattern, share) for pattern in ("16x1", "4x4") for share in (0.5, 0.8)),
)
QUICK = (PATTERNS[1], PATTERNS[3])


@dataclass(frozen=True)
class Masked:
    """A network with zeros, what share of its maskable weights they are, and what has none."""

    label: str
    network: nn.Module
    zeros: float
    left: dict[str, str]


def masked(model: Model, patterns: Sequence[Zeros]) -> Iterator[Masked]:
    """The dense network, and a copy for each pattern."""
    yield Masked(DENSE, model.network, 0.0, {})
    for zeros in patterns:
        step = zeros.step()
        choices = step.choose_from(model.network)
        rows = [row for row in masked_weights(choices) if not row.weight.endswith("bias")]
        yield Masked(
            zeros.label,
            remove_masks(step.rewrite(model.network, choices)),
            sum(row.masked for row in rows) / sum(row.entries for row in rows),
            {row.weight: row.reason for row in rows if row.reason},
        )


def exported(
    model: Model, network: nn.Module, precision: str, runtime: str, folder: Path
) -> Artifact:
    """One artifact, at one thread. NoEffect where nothing is quantized."""
    example = model.inputs()
    axes = {leaf.key: leaf.axes for leaf in example.leaves()}
    graph = fold(trace(network, example.args, dict(example.kwargs), axes))
    if precision == "int8":
        step = QuantizeStatic(runtime)
        choices = step.choose_from(graph, calibrate(graph, model.calls()), SEED)
        quantized = step.rewrite(graph, choices)
        assert isinstance(quantized, Traced)
        graph = quantized
    return export(graph, runtime, folder, precision=precision).with_options(threads=1)


def packed(artifact: Artifact) -> dict[str, float]:
    """Megabytes of an artifact's files, as they are, by zlib and by LZMA."""
    content = [(artifact.folder / name).read_bytes() for name in artifact.files]
    return {
        "size_mb": sum(len(part) for part in content) / 1e6,
        "zlib_mb": sum(len(zlib.compress(part, 6)) for part in content) / 1e6,
        "lzma_mb": sum(len(lzma.compress(part, preset=1)) for part in content) / 1e6,
    }


def measure_model(model: Model, given: argparse.Namespace) -> dict[str, Any]:
    """A network's rows, and what became of OpenVINO's option."""
    found: dict[str, Any] = {"rows": [], "option": None}
    networks = list(masked(model, QUICK if given.quick else PATTERNS))
    for precision in PRECISIONS:
        for runtime in RUNTIMES:
            print(f"{model.title}, {precision}, {runtime}", flush=True)
            with tempfile.TemporaryDirectory(prefix="burnish-") as folder:
                place = Path(folder)
                found["rows"] += raced(model, networks, precision, runtime, place, given)
                if (precision, runtime) == ("int8", "openvino"):
                    found["option"] = option(place / sparsest(networks).label, model)
    return found


def sparsest(networks: Sequence[Masked]) -> Masked:
    """The network with most zeros."""
    return max(networks, key=lambda network: network.zeros)


def raced(
    model: Model,
    networks: Sequence[Masked],
    precision: str,
    runtime: str,
    folder: Path,
    given: argparse.Namespace,
) -> list[dict[str, Any]]:
    """A row for each pattern of one network, precision and runtime."""
    artifacts: dict[str, Artifact] = {}
    failed: dict[str, str] = {}
    for item in networks:
        try:
            place = folder / item.label
            artifacts[item.label] = exported(model, item.network, precision, runtime, place)
        except NoEffect as error:
            failed[item.label] = str(error)
    sizes = {label: packed(artifact) for label, artifact in artifacts.items()}
    ports = next(iter(artifacts.values())).inputs
    inputs = {
        port.name: tensor[:1].contiguous().numpy()
        for port, tensor in zip(ports, model.validation[0].args, strict=True)
    }
    seconds = QUICK_SECONDS if given.quick else RACE_SECONDS
    result = race(artifacts, inputs, seconds=seconds, seed=SEED)
    rows = []
    for item in networks:
        row: dict[str, Any] = {
            "model": model.name,
            "precision": precision,
            "runtime": runtime,
            "zeros": item.label,
            "share": item.zeros,
            "left": item.left,
            "failed": failed.get(item.label),
        }
        if item.label in artifacts:
            timing = result.timing(item.label)
            row |= {"failed": timing.failed, **sizes[item.label]}
            if timing.failed is None and result.timing(DENSE).failed is None:
                value, low, high = result.latency(item.label)
                row["ms"] = {"value": 1e3 * value, "low": 1e3 * low, "high": 1e3 * high}
                row["ratio"] = vars(result.ratio(item.label, DENSE))
        rows.append(row)
    return rows


def option(folder: Path, model: Model) -> dict[str, Any]:
    """Whether OpenVINO's packing of sparse weights changes a kernel of an artifact in a folder."""
    (path,) = folder.glob("*.xml")
    core = openvino.Core()
    kernels = []
    for rate in (1.0, RATE):
        read = core.read_model(str(path))
        sizes = [list(tensor[:1].shape) for tensor in model.validation[0].args]
        read.reshape(dict(enumerate(sizes)))
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        settings["CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE"] = rate
        compiled = core.compile_model(read, "CPU", settings)
        told = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
        kernels.append(
            Counter(
                f"{info['layerType'].astype(str)}: {info['primitiveType'].astype(str)}"
                for info in told
            )
        )
    without, with_it = kernels
    return {
        "rate": RATE,
        "processor_has_amx": any("amx" in name for name in detect().isa),
        "kernels": dict(without),
        "kernels_with_option": dict(with_it),
        "applies": without != with_it,
    }


def claims_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each network and precision: that some zeros make some artifact faster. Rarely met."""
    found = []
    for name in dict.fromkeys(row["model"] for row in rows):
        for precision in PRECISIONS:
            ratios = [
                (row["ratio"], f"{row['zeros']} on {row['runtime']}")
                for row in rows
                if (row["model"], row["precision"]) == (name, precision)
                and row["zeros"] != DENSE
                and "ratio" in row
            ]
            text = f"{name} {precision}: the fastest zeros take {FASTER:g} of dense's time or less"
            if not ratios:
                found.append(claim(text, None, FASTER, missing="nothing was timed"))
                continue
            best, where = min(ratios, key=lambda item: item[0]["value"])
            interval = {"low": best["low"], "high": best["high"]}
            found.append(claim(text, best["value"], FASTER, where=where, **interval))
    return found


def table(document: Mapping[str, Any]) -> str:
    """The card's table: times and packed sizes as shares of the dense artifact's."""
    rows = {
        (row["model"], row["precision"], row["runtime"], row["zeros"]): row
        for row in document["rows"]
    }
    names = list(dict.fromkeys((row["model"], row["precision"]) for row in document["rows"]))
    heads = [f"{model} {precision}" for model, precision in names]
    lines = ["| zeros | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for label in dict.fromkeys(row["zeros"] for row in document["rows"]):
        cells = [_cell(rows, model, precision, label) for model, precision in names]
        lines.append("| " + " | ".join([label, *cells]) + " |")
    return "\n".join(lines)


def _cell(rows: Mapping[Any, Mapping[str, Any]], model: str, precision: str, label: str) -> str:
    """ "onnxruntime's ratio, OpenVINO's ratio; zlib's share"."""
    times, sizes = [], []
    for runtime in RUNTIMES:
        row, dense = (rows.get((model, precision, runtime, which)) for which in (label, DENSE))
        times.append(f"{row['ratio']['value']:.2f}" if row and "ratio" in row else "–")
        if row and dense and "zlib_mb" in row and "zlib_mb" in dense:
            sizes.append(row["zlib_mb"] / dense["zlib_mb"])
    return f"{', '.join(times)}; {sizes[0]:.2f}" if sizes else "–"


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """All networks, as the document that is committed."""
    pin(1)
    torch.set_num_threads(1)
    start = time.monotonic()
    sources = Sources(given.data, given.cache, SAMPLES, SEED)
    found = {name: measure_model(load(name, sources), given) for name in given.model}
    rows = [row for part in found.values() for row in part["rows"]]
    return {
        "schema": 1,
        "benchmark": "sparsity_worth",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - start, 1),
        "environment": Environment.capture().to_json(),
        "settings": {
            "seed": SEED,
            "threads": 1,
            "batch": 1,
            "quick": given.quick,
            "race_seconds": QUICK_SECONDS if given.quick else RACE_SECONDS,
            "criterion": PruneWeights(0.5).criterion,
            "scope": PruneWeights(0.5).scope,
        },
        "openvino_sparse_weights": {name: part["option"] for name, part in found.items()},
        "rows": rows,
        "claims": claims_of(rows),
    }


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--cache", type=Path, default=CACHE, help="trained heads, weights")
    parser.add_argument("--quick", action="store_true", help="two patterns: does it work at all")
    parser.add_argument("--output", type=Path, help=f"default {RESULT}; with --quick: none")
    parser.add_argument(
        "--table", type=Path, nargs="+", help="only print the card's table of results"
    )
    given = parser.parse_args(arguments)
    partial = given.quick or len(given.model) < len(MODELS)
    given.output = given.output or (None if partial else RESULT)
    return given


def main() -> int:
    """Run the benchmark; the exit code is 0 also where a claim is missed: that is a result."""
    given = parse()
    if given.table is not None:
        documents = [json.loads(path.read_text(encoding="utf-8")) for path in given.table]
        print(table({"rows": [row for document in documents for row in document["rows"]]}))
        return 0
    try:
        document = measure(given)
    except BurnishError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    print(table(document))
    for name, told in document["openvino_sparse_weights"].items():
        print(f"{name}: OpenVINO's packing of sparse weights applies: {told['applies']}")
    for item in document["claims"]:
        print("met   " if item["met"] else "MISSED", item["claim"], item["value"])
    if given.output is not None:
        write_result(document, given.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Mixed precision under a budget: is it kept when measured again, and is no uniform choice better?

    python benchmarks/mixed_precision.py [--model NAME ...] [--limits latency size] [--quick]

The budget of a network lies in the middle between its two fastest kinds of artifact that are no
allocation, float (float32 and bfloat16) and int8, of the better runtime each; where int8 is no
faster, 5 % above the faster. Megabytes: in the middle between the files in int8 and in float32.
`burnish.auto.mix` then allocates on both runtimes. A row is one artifact that it measured: those of
one precision, and the allocations in the order they were solved; the pick has a row for each layer
with its precision and the reason.

"Better" is less error (squared difference of the outputs from the float network's, on calibration
samples, as a share of their power); what the metric says on the validation data stands beside it.

Left out: batches above 1; the limit on the error, which is the same program with sides exchanged.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
for _folder in (ROOT / "src", ROOT / "examples"):
    sys.path.insert(0, str(_folder))

from models import NAMES, Model, Sources, load  # noqa: E402
from models.model import CACHE, DATA  # noqa: E402
from ptq.claims import claim as at_most  # noqa: E402
from ptq.tools import pin  # noqa: E402
from result import write_result  # noqa: E402

from burnish import Budget, Goal, Target  # noqa: E402
from burnish.auto import Mix, mix  # noqa: E402
from burnish.bench import Environment, race  # noqa: E402
from burnish.errors import BurnishError, Infeasible, NoEffect  # noqa: E402
from burnish.graph import Traced, trace  # noqa: E402
from burnish.hardware import detect  # noqa: E402
from burnish.quantize import QuantizeStatic, calibrate, fold  # noqa: E402
from burnish.runtimes import Artifact, export  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "mixed_precision.json"
RUNTIMES = ("onnxruntime", "openvino")
LIMITS = {"latency": "latency_ms", "size": "size_mb"}
MAX_DROP = 0.01
SEED = 0
QUICK_SAMPLES = 96
RACE_SECONDS, QUICK_SECONDS = 20.0, 3.0


def ends(model: Model, folder: Path, given: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Seconds and bytes of a network's float and int8 artifacts."""
    example = model.inputs()
    axes = {leaf.key: leaf.axes for leaf in example.leaves()}
    folded = fold(trace(model.network, example.args, dict(example.kwargs), axes))
    statistics = calibrate(folded, model.calls())
    artifacts: dict[str, Artifact] = {}
    for runtime in RUNTIMES:
        artifacts[f"{runtime} float32"] = export(folded, runtime, folder / f"{runtime}-float32")
        step = QuantizeStatic(runtime)
        try:
            choices = step.choose_from(folded, statistics, SEED)
        except NoEffect:
            continue
        graph = step.rewrite(folded, choices)
        assert isinstance(graph, Traced)
        place = folder / f"{runtime}-int8"
        artifacts[f"{runtime} int8"] = export(graph, runtime, place, precision="int8")
    if detect().supports_bfloat16:
        hinted = artifacts["openvino float32"].with_options(execution="bfloat16")
        artifacts["openvino bfloat16"] = hinted
    artifacts = {name: a.with_options(threads=given.threads) for name, a in artifacts.items()}
    first = model.validation[0].args
    ports = next(iter(artifacts.values())).inputs
    inputs = {
        port.name: tensor[:1].contiguous().numpy()
        for port, tensor in zip(ports, first, strict=True)
    }
    seconds = QUICK_SECONDS if given.quick else RACE_SECONDS
    found = race(artifacts, inputs, seconds=seconds, seed=SEED)
    return {t.label: (t.p50, float(t.size_bytes)) for t in found.timings if t.failed is None}


def budgets(known: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Milliseconds and megabytes between the best int8 and the best float artifact."""
    found = {}
    for place, (limit, unit) in enumerate((("latency", 1e3), ("size", 1e-6))):
        int8 = [value[place] for name, value in known.items() if name.endswith("int8")]
        floats = [value[place] for name, value in known.items() if not name.endswith("int8")]
        low, high = min(int8, default=min(floats)), min(floats)
        found[limit] = unit * ((low + high) / 2 if low < high else 1.05 * high)
    return found


def measure_model(model: Model, given: argparse.Namespace) -> dict[str, Any]:
    """A network's budgets, rows and claims."""
    found: dict[str, Any] = {"ends": {}, "rows": [], "claims": [], "seconds": {}, "notes": []}
    with tempfile.TemporaryDirectory(prefix="burnish-") as folder:
        found["ends"] = ends(model, Path(folder), given)
    most = budgets(found["ends"])
    for limit in given.limits:
        start = time.monotonic()
        goal = Goal(
            model.task(),
            Target(runtimes=RUNTIMES, threads=given.threads),
            Budget(max_drop=MAX_DROP, minutes=None),
            SEED,
        )
        kept = True
        result: object
        with tempfile.TemporaryDirectory(prefix="burnish-") as folder:
            try:
                result = mix(model.network, goal, folder=folder, **{LIMITS[limit]: most[limit]})
            except Infeasible as nearest:
                kept, result = False, nearest.result
                found["notes"].append(f"{model.name}, {limit}: {nearest}")
        assert isinstance(result, Mix)
        print(f"\n{model.title}\n{result}\n", flush=True)
        found["seconds"][limit] = round(time.monotonic() - start, 1)
        found["rows"] += rows_of(model, limit, result)
        found["claims"] += claims_of(model, limit, result, kept)
        found["notes"] += [f"{model.name}, {limit}: {note}" for note in result.notes]
    return found


def rows_of(model: Model, limit: str, result: Mix) -> list[dict[str, Any]]:
    """A row for each artifact that was measured."""
    return [
        {
            "model": model.name,
            "limit": dataclasses.asdict(result.limit),
            "under": limit,
            "pick": item is result.pick,
            **item.to_json(),
        }
        for item in result.candidates
    ]


def claims_of(model: Model, limit: str, result: Mix, kept: bool) -> list[dict[str, Any]]:
    """That the budget is kept to 5 %, and that no uniform artifact is both faster and better."""
    pick, most = result.pick, result.limit.most
    value = pick.figure(result.limit.of) / most
    name = f"{model.name}, {most:.3g} {'ms' if limit == 'latency' else 'MB'}"
    found = [at_most(f"{name}: measured over budget, 5 % allowed", value if kept else None, 1.05)]
    if limit == "latency":
        beaten = len(result.beaten_by)
        text = f"{name}: uniform artifacts that are faster with less error"
        found.append(at_most(text, float(beaten), 0.0))
        last = {(i.runtime, i.base): i for i in result.candidates if not i.uniform}
        for (runtime, base), item in last.items():
            text = f"{name}: the last allocation of {runtime} {base}, measured over budget"
            found.append(at_most(text, item.latency_ms / most, 1.05))
    return found


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """All networks, as the document that is committed."""
    pin(given.threads)
    torch.set_num_threads(given.threads)
    sources = Sources(given.data, given.cache, QUICK_SAMPLES if given.quick else None, SEED)
    found = {}
    for name in given.model:
        model = load(name, sources)
        if given.quick:
            model = dataclasses.replace(model, calibration=model.calibration[:1])
        found[name] = measure_model(model, given)
    return {
        "schema": 1,
        "benchmark": "mixed_precision",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": {name: part["seconds"] for name, part in found.items()},
        "environment": Environment.capture().to_json(),
        "settings": {
            "seed": SEED,
            "threads": given.threads,
            "quick": given.quick,
            "limits": given.limits,
            "max_drop": MAX_DROP,
            "ends": {name: part["ends"] for name, part in found.items()},
            "notes": [note for part in found.values() for note in part["notes"]],
        },
        "rows": [row for part in found.values() for row in part["rows"]],
        "claims": [item for part in found.values() for item in part["claims"]],
    }


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--limits", nargs="+", choices=list(LIMITS), default=list(LIMITS))
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--cache", type=Path, default=CACHE, help="trained heads, weights")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="few samples: does it work at all")
    parser.add_argument("--output", type=Path, help=f"default {RESULT}; with --quick: none")
    given = parser.parse_args(arguments)
    partial = given.quick or len(given.model) < len(NAMES) or len(given.limits) < len(LIMITS)
    given.output = given.output or (None if partial else RESULT)
    return given


def main() -> int:
    """Run the benchmark; the exit code is 0 also where a claim is missed: that is a result."""
    given = parse()
    try:
        document = measure(given)
    except BurnishError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    for item in document["claims"]:
        print("met   " if item["met"] else "MISSED", item["claim"], item["value"])
    if given.output is not None:
        write_result(document, given.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())

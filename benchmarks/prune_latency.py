"""Networks pruned until their artifacts are so much faster: asked for, foreseen, measured.

    python benchmarks/prune_latency.py [--parts resnet56 lite0 minilm] [--quick]

`prune_to_latency` for OpenVINO at batch 1 and one thread: ResNet-56 and EfficientNet-Lite0 in int8,
1.4 times as fast; MiniLM in float32, 1.5 times, by heads and feed-forward layers alone. Each then
recovers (`training/pruned.py`), is made into an artifact again, and races the original's in turns.
Rows tell top-1 of both artifacts on the test data and the paired verdict at one point. `--threads`
are those that train.

What is timed ("searched", "raced") wants a quiet machine; the training between them ("recovered")
does not. Each is kept when it is done.

Left out: other factors; onnxruntime.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
for _folder in (ROOT / "src", ROOT / "examples"):
    sys.path.insert(0, str(_folder))

import torch  # noqa: E402
from torch import nn  # noqa: E402
from training import scores  # noqa: E402
from training.claims import at_least, at_most  # noqa: E402
from training.document import Part, Script, run  # noqa: E402
from training.pruned import CASES, SEED, Case, keep, restored  # noqa: E402
from training.watching import watch  # noqa: E402

from burnish import Goal, Target  # noqa: E402
from burnish.auto import prune_to_latency  # noqa: E402
from burnish.bench import race  # noqa: E402
from burnish.bundle import Artifact  # noqa: E402
from burnish.core import Choices  # noqa: E402
from burnish.graph import Traced, trace  # noqa: E402
from burnish.quantize import quantize_static  # noqa: E402
from burnish.runtimes import export, load  # noqa: E402

SCRIPT = Script(
    "prune_latency",
    "Networks pruned to a latency of their artifacts, and what recovery regains.",
    {"resnet56": 25, "lite0": 20, "minilm": 25},
    rooms=("burnish/auto", "burnish/distill", "burnish/graph", "burnish/prune", "burnish/quantize"),
)
RUNTIME, THREADS = "openvino", 1
RACE_SECONDS = 40.0
WEIGHTS = "recovered.safetensors"


def compare(part: Part) -> None:
    """Pruned, recovered, made into artifacts, raced."""
    case = CASES[part.name](part)
    found = part.once("searched", lambda: _searched(case))
    pruned = case.step.rewrite(case.model, Choices(found["plan"]))
    path = part.folder / WEIGHTS
    part.once("recovered", lambda: _recovered(case, pruned, path))
    raced = part.once("raced", lambda: _raced(case, restored(pruned, path), part.quick))
    told = scores.compared([raced["original"]], [raced["pruned"]], max_drop=case.max_drop)
    part.rows += [
        {"label": "original", "top1": scores.figure(raced["original"])},
        {
            "label": "pruned and recovered",
            "top1": scores.figure(raced["pruned"]),
            "ratio": raced["ratio"],
            "verdict": scores.told(told),
        },
    ]
    part.claims += _claims(part.name, case, raced["ratio"], told.difference, told.low)
    part.settings |= {
        **case.settings,
        "step": repr(case.step),
        "precision of the artifacts": case.precision,
        "speedup": case.speedup,
        "runtime": RUNTIME,
        "batch of the artifacts": 1,
        "threads of the artifacts": THREADS,
        "seconds of the race": RACE_SECONDS,
        **{name: found[name] for name in ("attempts", "notes", "block", "dropped", "layers")},
    }


def _claims(
    name: str, case: Case, ratio: dict[str, Any], difference: float, low: float
) -> list[dict[str, Any]]:
    speedup, slowest, fastest = (1 / ratio[key] for key in ("value", "high", "low"))
    off = abs(ratio["value"] * case.speedup - 1)
    what = f"{name}, {case.precision} at batch 1"
    lost = at_most(f"{what}: top-1 lost, in points", -100 * difference, 100 * case.max_drop)
    return [
        at_least(f"{what}: times as fast", speedup, case.least, low=slowest, high=fastest),
        at_most(f"{what}: latency off what was asked for, as a share", off, 0.05),
        {**lost, "at worst": -100 * low},
    ]


def _searched(case: Case) -> dict[str, Any]:
    start = time.perf_counter()
    goal = Goal(case.task, Target(threads=THREADS, batch=1), seed=SEED)
    found = prune_to_latency(
        case.model,
        goal,
        speedup=case.speedup,
        runtime=RUNTIME,
        precision=case.precision,
        step=case.step,
    )
    print(found)
    plan = found.candidate.history[-1].choices.plan
    return {
        "plan": plan,
        "attempts": [
            {
                "foreseen": attempt.foreseen,
                "measured": vars(attempt.measured),
                "blocks": len(attempt.dropped),
                "channels": attempt.channels,
            }
            for attempt in found.attempts
        ],
        "notes": list(found.notes),
        "block": found.block,
        "dropped": plan["dropped"],
        "layers": [
            [row["layer"], row["before"], row["after"]]
            for row in plan["layers"]
            if row["state"] in ("pruned", "dropped")
        ],
        "took": time.perf_counter() - start,
    }


def _recovered(case: Case, pruned: nn.Module, path: Path) -> dict[str, Any]:
    start = time.perf_counter()
    keep(case.recover(pruned), path)
    return {"took": time.perf_counter() - start}


def _raced(case: Case, recovered: nn.Module, quick: bool) -> dict[str, Any]:
    start = time.perf_counter()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        artifacts = {
            name: _artifact(case, network, Path(folder) / name)
            for name, network in (("original", case.model), ("pruned", recovered))
        }
        ports = artifacts["original"].inputs
        call = next(iter(case.task.calls("validation")))
        inputs = {
            port.name: x[:1].contiguous().numpy() for port, x in zip(ports, call.args, strict=True)
        }
        seconds = 4.0 if quick else RACE_SECONDS
        ran = race(artifacts, inputs, seconds=seconds, seed=SEED, batch=1)
        for name, artifact in artifacts.items():
            with load(artifact) as worker:
                found[name] = scores.answers(_called(worker, artifact), case.task, watch)
    ratio = vars(ran.ratio("pruned", "original"))
    return {**found, "ratio": ratio, "took": time.perf_counter() - start}


def _artifact(case: Case, network: nn.Module, folder: Path) -> Artifact:
    if case.precision == "int8":
        graph = quantize_static(network, case.task.calibration, runtime=RUNTIME)
    elif isinstance(network, Traced):
        graph = network
    else:
        graph = trace(network, *case.task.inputs.to_trace())
    artifact = export(graph, RUNTIME, folder, precision=case.precision)
    artifact = artifact.with_options(threads=THREADS, execution="float32")
    artifact.save()
    return artifact


def _called(worker: Any, artifact: Artifact) -> Callable[..., torch.Tensor]:
    """An artifact in its process, called as the network is."""
    names = [port.name for port in artifact.inputs]

    def call(*args: torch.Tensor) -> torch.Tensor:
        arrays = (x.contiguous().numpy() for x in args)
        (logits,) = worker.run(dict(zip(names, arrays, strict=True)))
        return torch.from_numpy(logits.copy())

    return call


if __name__ == "__main__":
    sys.exit(run(SCRIPT, dict.fromkeys(SCRIPT.minutes, compare)))

"""ResNet-56 pruned until its int8 artifact is so much faster: asked for, foreseen, measured.

    python benchmarks/prune_latency.py [--parts resnet56] [--quick]

`prune_to_latency` for OpenVINO in int8 at batch 1 and one thread, 1.4 times as fast; then three
epochs of training, static int8 again, and a race of that artifact against the original's, in turns.
Rows tell top-1 of both artifacts on the 10,000 test images and the paired verdict. `--threads` are
those that train.

Left out: other factors; onnxruntime.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
for _folder in (ROOT / "src", ROOT / "examples"):
    sys.path.insert(0, str(_folder))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402
from training import cifar, scores  # noqa: E402
from training.claims import at_least, at_most  # noqa: E402
from training.document import Part, Script, run  # noqa: E402
from training.watching import watch  # noqa: E402

from burnish import Goal, Target  # noqa: E402
from burnish.auto import prune_to_latency  # noqa: E402
from burnish.bench import race  # noqa: E402
from burnish.bundle import Artifact  # noqa: E402
from burnish.quantize import quantize_static  # noqa: E402
from burnish.runtimes import export, load  # noqa: E402
from burnish.train import fit  # noqa: E402

SCRIPT = Script(
    "prune_latency",
    "A network pruned to a latency of its int8 artifact, and what training regains.",
    {"resnet56": 15},
    rooms=("burnish/auto", "burnish/graph", "burnish/prune", "burnish/quantize"),
)
RUNTIME, SPEEDUP, THREADS = "openvino", 1.4, 1
NUM_CALIBRATION, CALIBRATION_BATCH = 512, 64
EPOCHS, SEED = 3, 0
RACE_SECONDS = 40.0
TRAINING: Mapping[str, Any] = {
    "learning_rate": 0.02,
    "optimizer": "sgd",
    "schedule": "one_cycle",
    "weight_decay": 5e-4,
    "precision": "bfloat16",
}


def compare(part: Part) -> None:
    """Pruned, trained, quantized, raced."""
    known = part.once("pruned", lambda: _measured(part))
    part.rows += known["rows"]
    ratio = known["ratio"]
    low, high = 1 / ratio["high"], 1 / ratio["low"]
    off = abs(ratio["value"] * SPEEDUP - 1)
    part.claims += [
        at_least("resnet56: int8 at batch 1", 1 / ratio["value"], 1.3, low=low, high=high),
        at_most("resnet56: latency off what was asked for, as a share", off, 0.05),
    ]
    part.settings |= {
        **TRAINING,
        "epochs": EPOCHS,
        "speedup": SPEEDUP,
        "runtime": RUNTIME,
        "batch": 1,
        "threads of the artifacts": THREADS,
        "seconds of the race": RACE_SECONDS,
        **{name: known[name] for name in ("attempts", "notes", "block", "layers", "dropped")},
    }


def _measured(part: Part) -> dict[str, Any]:
    start = time.perf_counter()
    cut = (4 * cifar.BATCH, 500) if part.quick else (None, None)
    images = cifar.load(part.sources, *cut)
    drawn = images.train.cut(NUM_CALIBRATION).plain(CALIBRATION_BATCH)
    calibration = [x for x, _ in drawn]
    task = images.task(SEED, calibration=calibration)
    model = cifar.pretrained("resnet56", part.sources)
    goal = Goal(task, Target(threads=THREADS, batch=1), seed=SEED)
    found = prune_to_latency(model, goal, speedup=SPEEDUP, runtime=RUNTIME, precision="int8")
    print(found)
    trained = fit(
        found.candidate.model, task, epochs=EPOCHS, seed=SEED, watch=watch, **TRAINING
    ).model
    with tempfile.TemporaryDirectory() as folder:
        artifacts = {
            name: _artifact(network, calibration, Path(folder) / name)
            for name, network in (("original", model), ("pruned", trained))
        }
        answered = {name: _answers(item, images) for name, item in artifacts.items()}
        port = artifacts["original"].inputs[0].name
        inputs = {port: cifar.normalized(images.test.images[:1]).contiguous().numpy()}
        seconds = 4.0 if part.quick else RACE_SECONDS
        ran = race(artifacts, inputs, seconds=seconds, seed=SEED, batch=1)
    ratio = ran.ratio("pruned", "original")
    verdict = scores.compared([answered["original"]], [answered["pruned"]], max_drop=0.01)
    rows = [{"label": name, "top1": scores.figure(text)} for name, text in answered.items()]
    rows[1] |= {"ratio": vars(ratio), "verdict": scores.told(verdict)}
    plan = found.candidate.history[-1].choices.plan
    return {
        "rows": rows,
        "ratio": vars(ratio),
        "attempts": [
            {
                "foreseen": a.foreseen,
                "measured": vars(a.measured),
                "blocks": len(a.dropped),
                "channels": a.channels,
            }
            for a in found.attempts
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


def _artifact(network: nn.Module, calibration: list[torch.Tensor], folder: Path) -> Artifact:
    quantized = quantize_static(network, calibration, runtime=RUNTIME)
    artifact = export(quantized, RUNTIME, folder, precision="int8")
    artifact = artifact.with_options(threads=THREADS)
    artifact.save()
    return artifact


def _answers(artifact: Artifact, images: cifar.Cifar) -> str:
    """Right or wrong, test image by test image."""
    (port,) = artifact.inputs
    found = []
    with load(artifact) as worker:
        for batch, labels in watch(images.test.plain(), "answering"):
            (logits,) = worker.run({port.name: batch.contiguous().numpy()})
            found.append(np.array(logits).argmax(1) == labels.numpy())
    return "".join("1" if right else "0" for right in np.concatenate(found))


if __name__ == "__main__":
    sys.exit(run(SCRIPT, dict.fromkeys(SCRIPT.minutes, compare)))

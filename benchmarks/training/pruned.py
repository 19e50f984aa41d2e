"""The networks that prune_latency.py makes faster: how each is pruned, recovered and judged.

ResNet-56 trains on its labels. EfficientNet-Lite0 learns from the original alone, on the photos
that are none of the test photos, turned and shifted at random. MiniLM loses heads and the insides
of its feed-forward layers, and learns from labels and the original.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from efficientnet_lite0 import find_photos, preprocess, split, top1_accepted
from models import lite0, minilm
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from burnish import Inputs, Task
from burnish.distill import KD, distill
from burnish.graph import Traced
from burnish.prune import PruneTo
from burnish.train import fit
from training import banking, cifar
from training.document import Part
from training.shuffled import Batch, Shuffled
from training.watching import watch

SEED = 0
NUM_IMAGES, NUM_PHOTOS, NUM_TEXTS = 512, 32, 64  # that calibrate
CALIBRATION_BATCH = 16
PHOTO_BATCH, TEXT_BATCH = 32, 32
SHIFT = 16  # pixels, at most, in each direction
FROM_PHOTOS: Mapping[str, Any] = {
    "epochs": 16,
    "learning_rate": 1e-3,
    "optimizer": "adamw",
    "schedule": "one_cycle",
    "precision": "float32",
}
FROM_TEXTS: Mapping[str, Any] = {
    "epochs": 3,
    "learning_rate": 1e-4,
    "optimizer": "adamw",
    "schedule": "one_cycle",
    "precision": "float32",
}


@dataclass(frozen=True, eq=False)
class Case:
    """A network to make faster.

    `task`: calibration data without labels; the test data is its validation data, whose first
    sample is what is timed. `recover` trains a pruned network. `max_drop` is of top-1.
    """

    model: nn.Module
    task: Task
    recover: Callable[[nn.Module], nn.Module]
    step: PruneTo
    precision: str
    speedup: float
    least: float
    max_drop: float
    settings: Mapping[str, Any]


def resnet56(part: Part) -> Case:
    """In int8; blocks and channels; three epochs on its labels."""
    cut = (4 * cifar.BATCH, 500) if part.quick else (None, None)
    images = cifar.load(part.sources, *cut)
    unlabelled = [x for x, _ in images.train.cut(NUM_IMAGES).plain(64)]
    task = images.task(SEED, calibration=unlabelled)
    common = {**cifar.FINE_TUNING, "epochs": cifar.FINE_TUNING_EPOCHS, "seed": SEED}

    def recover(network: nn.Module) -> nn.Module:
        return fit(network, task, watch=watch, **common).model

    model = cifar.pretrained("resnet56", part.sources)
    return Case(model, task, recover, PruneTo(), "int8", 1.4, 1.3, 0.01, common)


def lite0_(part: Part) -> Case:
    """In int8; blocks and channels; from the original's answers to unlabelled photos."""
    model = lite0.network(part.sources)
    folder = part.sources.find(lite0.FOLDER)
    photos = find_photos(folder, folder / lite0.LABELS)
    first, second, test = split(len(photos.paths), SEED)
    seen, asked = [*first, *second], test
    if part.quick:
        seen, asked = seen[: 2 * PHOTO_BATCH], asked[:32]
    images, tested = (
        torch.stack([preprocess(photos.paths[i]) for i in watch(some, f"reading {what} photos")])
        for some, what in ((seen, "train"), (asked, "test"))
    )

    def take(indices: torch.Tensor, generator: torch.Generator) -> Batch:
        return (_moved(images[indices], generator),)

    validation = [x.split(CALIBRATION_BATCH) for x in (tested, photos.accepted[asked])]
    task = Task(
        inputs=Inputs(tested[:2]),
        metric=top1_accepted,
        calibration=list(images[:NUM_PHOTOS].split(CALIBRATION_BATCH)),
        validation=list(zip(*validation, strict=True)),
        train=Shuffled(len(images), PHOTO_BATCH, SEED, take),
    )
    common = {**FROM_PHOTOS, "seed": SEED, **({"epochs": 1} if part.quick else {})}

    def recover(network: nn.Module) -> nn.Module:
        return distill(network, model, task, (KD(),), labels=None, watch=watch, **common).model

    settings = {**common, "batch": PHOTO_BATCH, "photos": [len(images), len(tested)]}
    return Case(model, task, recover, PruneTo(), "int8", 1.4, 1.3, 0.01, settings)


def _moved(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Every second one turned left to right, each shifted with its edge mirrored."""
    n, side = len(images), images.shape[-1]
    padded = F.pad(images, (SHIFT, SHIFT, SHIFT, SHIFT), mode="reflect")
    first = torch.randint(0, 2 * SHIFT + 1, (2, n), generator=generator).tolist()
    turned = torch.randint(0, 2, (n,), generator=generator).tolist()
    cut = [
        image[:, row : row + side, column : column + side]
        for image, row, column in zip(padded, *first, strict=True)
    ]
    return torch.stack([x.flip(-1) if flip else x for x, flip in zip(cut, turned, strict=True)])


def minilm_(part: Part) -> Case:
    """In float32; heads and feed-forward layers; from labels and the original, 64 tokens a text."""
    minilm.load(part.sources)  # trains the head where the cache has none
    model = minilm.network(part.sources)
    cut = (4 * TEXT_BATCH, 64) if part.quick else (None, None)
    train, test = banking.load(part.sources, SEED, *cut)
    whole = banking.task(train, test, SEED, TEXT_BATCH)

    def take(indices: torch.Tensor, _: torch.Generator) -> Batch:
        return train.ids[indices], train.mask[indices], train.labels[indices]

    calibration = [x[:NUM_TEXTS].split(CALIBRATION_BATCH) for x in (train.ids, train.mask)]
    validation = [x.split(TEXT_BATCH) for x in (test.ids, test.mask, test.labels)]
    task = replace(
        whole,
        inputs=Inputs((train.ids[:2], train.mask[:2])),
        train=Shuffled(len(train.labels), TEXT_BATCH, SEED, take),
        calibration=list(zip(*calibration, strict=True)),
        validation=list(zip(*validation, strict=True)),
    )
    common = {**FROM_TEXTS, "seed": SEED, **({"epochs": 1} if part.quick else {})}

    def recover(network: nn.Module) -> nn.Module:
        return distill(network, model, task, (KD(),), labels=1.0, watch=watch, **common).model

    step = PruneTo(depth=False, ignore=("encoder.embeddings.word_embeddings",))
    settings = {**common, "batch": TEXT_BATCH, "texts": [len(train.labels), len(test.labels)]}
    return Case(model, task, recover, step, "float32", 1.5, 1.5, 0.01, settings)


CASES: Mapping[str, Callable[[Part], Case]] = {
    "resnet56": resnet56,
    "lite0": lite0_,
    "minilm": minilm_,
}


def keep(network: nn.Module, path: Path) -> None:
    """The tensors of a module or a graph."""
    state = _module(network).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)


def restored(network: nn.Module, path: Path) -> nn.Module:
    """The network with the tensors that were kept."""
    _module(network).load_state_dict(load_file(path))
    return network


def _module(network: nn.Module) -> nn.Module:
    return network.graph_module if isinstance(network, Traced) else network

"""CIFAR-10 for training: every image once from the archive, cut and turned at random on the way.

Images are kept as bytes, rows of pixels with their three colours together, so that a batch is
channels-last without being copied. Augmentation is the usual one (He et al., 2015, section 4.2):
four black pixels around, a cut of 32 × 32 from anywhere, every second image turned left to right.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models.model import Sources
from models.resnet20 import DEVIATION, IMAGES, MEAN, images_of, pixels
from networks.resnet20 import ResNet, ResNet20, ResNet56
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from burnish import Inputs, Task
from burnish.metrics import top1
from training.shuffled import Batch, Shuffled

KEPT = "cifar10-jpeg.safetensors"
PADDING, SIDE = 4, 32
BATCH, TEST_BATCH = 128, 250
NETWORKS = {"resnet20": ResNet20, "resnet56": ResNet56}
# What a network that lost some of its channels or blocks is trained by.
FINE_TUNING_EPOCHS = 3
FINE_TUNING: Mapping[str, Any] = {
    "learning_rate": 0.02,
    "optimizer": "sgd",
    "schedule": "one_cycle",
    "weight_decay": 5e-4,
    "precision": "float32",
}


@dataclass(frozen=True, eq=False)
class Split:
    """Images, uint8 [n, 32, 32, 3], and their classes, int64 [n]."""

    images: torch.Tensor
    labels: torch.Tensor

    def cut(self, num: int | None) -> Split:
        """The first `num` samples; all for None. The archive's order is shuffled already."""
        return self if num is None else Split(self.images[:num], self.labels[:num])

    def augmented(self, seed: int, contiguous: bool = False) -> Shuffled:
        """Train batches of 128, each epoch anew; channels-last unless `contiguous`."""

        def take(indices: torch.Tensor, generator: torch.Generator) -> Batch:
            images = normalized(augment(self.images[indices], generator))
            return images.contiguous() if contiguous else images, self.labels[indices]

        return Shuffled(len(self.labels), BATCH, seed, take)

    def plain(self, size: int = TEST_BATCH) -> list[Batch]:
        """All samples in order, as they are."""
        parts = zip(self.images.split(size), self.labels.split(size), strict=True)
        return [(normalized(images), labels) for images, labels in parts]


@dataclass(frozen=True, eq=False)
class Cifar:
    """Both splits."""

    train: Split
    test: Split

    def task(self, seed: int, contiguous: bool = False, calibration: Any = None) -> Task:
        """Train batches drawn by `seed`; the test split is its validation data."""
        return Task(
            inputs=Inputs(normalized(self.test.images[:2])),
            metric=top1,
            train=self.train.augmented(seed, contiguous),
            validation=self.test.plain(),
            calibration=calibration,
            loss=F.cross_entropy,
        )


def load(sources: Sources, num_train: int | None = None, num_test: int | None = None) -> Cifar:
    """The images, cut to so many. They are read from the archive once and kept in the cache."""
    path = sources.cache / KEPT
    if not path.is_file():
        _keep(path, sources)
    kept = load_file(path)
    train, test = (Split(kept[f"{name}.images"], kept[f"{name}.labels"]) for name in SPLITS)
    return Cifar(train.cut(num_train), test.cut(num_test))


SPLITS = ("train", "test")


def _keep(path: Path, sources: Sources) -> None:
    """Read the archive, shuffle each split once, and keep both."""
    found = {}
    with zipfile.ZipFile(sources.find(IMAGES)) as archive:
        for split in SPLITS:
            rows = images_of(archive, split)
            names = [name for name, _ in rows]
            title = f"reading the {split} images, once"
            images = np.stack([pixels(archive, name) for name in sources.watch(names, title)])
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
            found[f"{split}.images"] = torch.from_numpy(images)[order]
            found[f"{split}.labels"] = torch.tensor([label for _, label in rows])[order]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(found, path)


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Cut and turned, uint8 [n, 32, 32, 3] as before."""
    n = len(images)
    padded = F.pad(images, (0, 0, PADDING, PADDING, PADDING, PADDING))
    first = torch.randint(0, 2 * PADDING + 1, (2, n, 1), generator=generator)
    turned = torch.randint(0, 2, (n, 1), generator=generator).bool()
    along = torch.arange(SIDE).expand(n, SIDE)
    rows = first[0] + along
    columns = first[1] + torch.where(turned, SIDE - 1 - along, along)
    return padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def normalized(images: torch.Tensor) -> torch.Tensor:
    """What the networks take: float32 [n, 3, 32, 32], channels-last, from uint8 [n, 32, 32, 3]."""
    scaled = (images.float() / 255 - torch.tensor(MEAN)) / torch.tensor(DEVIATION)
    return scaled.permute(0, 3, 1, 2)


def pretrained(name: str, sources: Sources) -> ResNet:
    """A network with the weights that were fine-tuned on these images, in eval mode."""
    found = NETWORKS[name]()
    found.load_state_dict(load_file(sources.find(f"{name}-cifar10-jpeg.safetensors")))
    return channels_last(found).eval()


def untrained(name: str, seed: int) -> ResNet:
    """A network with torch's initial weights, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return channels_last(NETWORKS[name]()).eval()


def channels_last(network: ResNet) -> ResNet:
    """The network with its kernels in the layout of the batches."""
    return network.to(memory_format=torch.channels_last)

"""5,000 handwritten digits: where they are, how they are split, and how training bends them.

The digits ship with the package (MNIST, Y. LeCun and C. Cortes, CC BY-SA 3.0; see NOTICE). Of each
class 300 are for training, 100 for validation and 100 for testing, always the same ones. Training
sees them turned, scaled and shifted a little, another way each time; nothing else does.

Left out: the other 65,000 digits, which would add a download and a percent of accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

import numpy as np
import torch
import torch.nn.functional as F

HERE = __name__.rpartition(".")[0]
CLASSES = 10
TRAIN, VALIDATION = 300, 100
MEAN, DEVIATION = 0.1307, 0.3081
DEGREES, SCALE, SHIFT = 12.0, 0.12, 0.14

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Digits:
    """Images, float32 [n, 1, 28, 28], normalised, and their classes, int64 [n]."""

    images: torch.Tensor
    labels: torch.Tensor

    def batches(self, size: int) -> list[Batch]:
        """In order, the last one smaller where n does not divide."""
        return list(
            zip(torch.split(self.images, size), torch.split(self.labels, size), strict=True)
        )

    def first(self, num: int) -> Digits:
        """The first `num` of them."""
        return Digits(self.images[:num], self.labels[:num])


def load_digits() -> tuple[Digits, Digits, Digits]:
    """Train (3,000), validation (1,000) and test (1,000), each with all classes mixed."""
    with resources.files(HERE).joinpath("mnist5k.npz").open("rb") as file:
        data = np.load(file, allow_pickle=False)
        pixels, labels = data["x"], data["y"]
    generator = np.random.default_rng(0)
    parts: list[list[int]] = [[], [], []]
    for number in range(CLASSES):
        order = generator.permutation(np.flatnonzero(labels == number)).tolist()
        parts[0] += order[:TRAIN]
        parts[1] += order[TRAIN : TRAIN + VALIDATION]
        parts[2] += order[TRAIN + VALIDATION :]
    images = (torch.from_numpy(pixels).float().unsqueeze(1) / 255 - MEAN) / DEVIATION
    classes = torch.from_numpy(labels).long()
    mixed = [torch.from_numpy(generator.permutation(part)) for part in parts]
    train, validation, test = (Digits(images[index], classes[index]) for index in mixed)
    return train, validation, test


class Bent:
    """Batches of digits in a random order, each turned, scaled and shifted at random.

    Every pass draws anew, and the same seed draws the same passes. The digits left over by the
    last whole batch are left out of that pass.
    """

    def __init__(self, digits: Digits, size: int, seed: int) -> None:
        self._digits = digits
        self._size = size
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self._digits.labels) // self._size

    def __iter__(self) -> Iterator[Batch]:
        order = torch.randperm(len(self._digits.labels), generator=self._generator)
        for index in torch.split(order, self._size)[: len(self)]:
            yield self._bent(self._digits.images[index]), self._digits.labels[index]

    def _bent(self, images: torch.Tensor) -> torch.Tensor:
        drawn = 2 * torch.rand(4, len(images), generator=self._generator) - 1
        angle, scale = math.radians(DEGREES) * drawn[0], 1 + SCALE * drawn[1]
        across, down = SHIFT * drawn[2], SHIFT * drawn[3]
        cos, sin = scale * angle.cos(), scale * angle.sin()
        rows = [torch.stack([cos, -sin, across], 1), torch.stack([sin, cos, down], 1)]
        shape = [len(images), *images.shape[1:]]
        grid = F.affine_grid(torch.stack(rows, 1), shape, align_corners=False)
        paper = -MEAN / DEVIATION  # what surrounds the image: grid_sample itself would fill in 0
        return F.grid_sample(images - paper, grid, align_corners=False) + paper

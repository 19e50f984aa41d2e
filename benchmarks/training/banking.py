"""Banking77 for training: texts as ids, batches of like length padded no further than they need."""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from models import minilm
from models.model import Sources
from models.wordpiece import WordPiece
from torch.nn import functional as F

from burnish import Inputs, Task
from burnish.metrics import top1
from training.shuffled import Batch, Shuffled

STEP = 8  # lengths are padded to multiples of
TEST_BATCH = 64


@dataclass(frozen=True, eq=False)
class Texts:
    """Token ids and mask, int64 [n, 64] each, and classes, int64 [n]."""

    ids: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor

    @property
    def lengths(self) -> torch.Tensor:
        """Tokens that are none of padding, [n]."""
        return self.mask.sum(1)

    def of(self, indices: torch.Tensor) -> Texts:
        """Some of them, padded no further than the longest needs."""
        length = min(STEP * -(-int(self.lengths[indices].max()) // STEP), minilm.LENGTH)
        return Texts(self.ids[indices, :length], self.mask[indices, :length], self.labels[indices])

    def few(self, num: int) -> torch.Tensor:
        """The first `num` of each class, as indices in order."""
        order = self.labels.argsort(stable=True)
        of_class = order.split(self.labels.bincount().tolist())
        return torch.cat([members[:num] for members in of_class]).sort().values


def load(
    sources: Sources, seed: int, num_train: int | None = None, num_test: int | None = None
) -> tuple[Texts, Texts]:
    """Train and test texts, shuffled by `seed` and cut to so many."""
    folder = sources.find("banking77")
    classes = json.loads((folder / "categories.json").read_text(encoding="utf-8"))
    words = WordPiece(minilm.package(sources.cache) / "vocab.txt")
    found = []
    for split, num in (("train", num_train), ("test", num_test)):
        read, labels = minilm.read(folder / f"{split}.csv", classes)
        order = torch.randperm(len(read), generator=torch.Generator().manual_seed(seed))[:num]
        ids, mask = words.encode([read[index] for index in order.tolist()], minilm.LENGTH)
        found.append(Texts(ids, mask, labels[order]))
    train, test = found
    return train, test


def task(train: Texts, test: Texts, seed: int, batch: int, labelled: bool = True) -> Task:
    """Train batches drawn by `seed`, with labels or without; the test texts are validation data."""

    def take(indices: torch.Tensor, _: torch.Generator) -> Batch:
        some = train.of(indices)
        inputs = (some.ids, some.mask)
        return (*inputs, some.labels) if labelled else inputs

    order = test.lengths.argsort(stable=True)
    asked = [test.of(indices) for indices in order.split(TEST_BATCH)]
    axis = {1: "length"}
    return Task(
        inputs=Inputs((train.ids[:2], train.mask[:2]), dynamic={"0": axis, "1": axis}),
        metric=top1,
        train=Shuffled(len(train.labels), batch, seed, take, train.lengths),
        validation=[(some.ids, some.mask, some.labels) for some in asked],
        loss=F.cross_entropy if labelled else None,
    )

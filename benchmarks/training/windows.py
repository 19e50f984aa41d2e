"""The watch's windows in folds of people: each person is held out in exactly one of them.

Windows and classes are those of models/gru.py. A fold's network is scaled by the windows it is
trained on, and says nothing of the people it is asked about.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from models import gru
from models.model import Sources
from networks.lstm import WindowLSTM
from numpy.typing import NDArray
from torch.nn import functional as F

from burnish import Inputs, Task
from burnish.metrics import top1
from training.shuffled import Batch, Shuffled

NUM_FOLDS = 5
BATCH, TEST_BATCH = 64, 256


@dataclass(frozen=True, eq=False)
class Fold:
    """The windows of some people to train on, and those of all others."""

    windows: torch.Tensor
    labels: torch.Tensor
    people: torch.Tensor
    outside: torch.Tensor
    classes: int

    @property
    def groups(self) -> NDArray[np.int64]:
        """The person of each window held out."""
        return self.people[self.outside].numpy()

    def untrained(self, hidden: int, seed: int) -> WindowLSTM:
        """A network of so many units with torch's initial weights, in eval mode."""
        inside = self.windows[~self.outside]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = WindowLSTM(self.windows.shape[2], self.classes, hidden).eval()
        network.mean.copy_(inside.mean((0, 1)))
        network.deviation.copy_(inside.std((0, 1)))
        return network

    def task(self, seed: int) -> Task:
        """Train batches drawn by `seed`; the people held out are its validation data."""
        windows, labels = self.windows[~self.outside], self.labels[~self.outside]

        def take(indices: torch.Tensor, _: torch.Generator) -> Batch:
            return windows[indices], labels[indices]

        asked = (tensor[self.outside].split(TEST_BATCH) for tensor in (self.windows, self.labels))
        return Task(
            inputs=Inputs(windows[:2]),
            metric=top1,
            train=Shuffled(len(labels), BATCH, seed, take),
            validation=list(zip(*asked, strict=True)),
            loss=F.cross_entropy,
        )


@dataclass(frozen=True, eq=False)
class Windows:
    """All windows, float32 [n, length, channels], with their classes and people, int64 [n]."""

    windows: torch.Tensor
    labels: torch.Tensor
    people: torch.Tensor
    classes: int

    def fold(self, index: int) -> Fold:
        """One of NUM_FOLDS: every fifth person is held out."""
        held_out = self.people.unique(sorted=True)[index::NUM_FOLDS]
        outside = torch.isin(self.people, held_out)
        return Fold(self.windows, self.labels, self.people, outside, self.classes)


def load(sources: Sources, every: int = 1) -> Windows:
    """All windows, or every so many."""
    windows, labels, people, classes = gru.read(sources)
    return Windows(windows[::every], labels[::every], people[::every], classes)

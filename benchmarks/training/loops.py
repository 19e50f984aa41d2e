"""What the processes of train_precision.py do: one training each, by `fit` or by hand.

The loop by hand is what anybody writes who wants nothing more: it is what `fit` is measured
against, with the same optimizer, schedule and batches.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from models import Sources
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from burnish import Task
from burnish.core import model_hash
from burnish.train import fit
from training import cifar, windows
from training.scores import answers
from training.shuffled import Shuffled
from training.turns import InTurns, Turns

SEED = 0
LEARNING_RATE, WEIGHT_DECAY = 0.1, 5e-4


@dataclass(frozen=True)
class Training:
    """A training of `workload` ("resnet20", "lstm"), called in a process of its own.

    `by_hand`: by the loop below and not by `fit`. `contiguous`: batches and kernels are, instead of
    channels-last. `num_train`, `num_test` cut the images. `seed` decides weights and batches.
    """

    workload: str
    precision: str
    epochs: int
    sources: Sources
    threads: int
    by_hand: bool = False
    seed: int = SEED
    contiguous: bool = False
    num_train: int | None = None
    num_test: int | None = None

    def __call__(self, turns: Turns) -> dict[str, Any]:
        """Train in turns, then answer the test data in one more turn."""
        torch.set_num_threads(self.threads)
        network, task = self._cifar() if self.workload == "resnet20" else self._windows()
        task = replace(task, train=InTurns(task.train, turns))
        if self.by_hand:
            trained = by_hand(network, task.train, self.epochs, self.precision)
        else:
            trained = fit(
                network,
                task,
                epochs=self.epochs,
                learning_rate=LEARNING_RATE,
                optimizer=sgd,
                schedule=cosine,
                weight_decay=WEIGHT_DECAY,
                precision=self.precision,
                seed=self.seed,
            ).model
        turns.next()
        return {"answers": answers(trained, task), "weights": model_hash(trained)}

    def _cifar(self) -> tuple[nn.Module, Task]:
        network: nn.Module = cifar.untrained("resnet20", self.seed)
        if self.contiguous:
            network = network.to(memory_format=torch.contiguous_format)
        images = cifar.load(self.sources, self.num_train, self.num_test)
        return network, images.task(self.seed, self.contiguous)

    def _windows(self) -> tuple[nn.Module, Task]:
        data = windows.load(self.sources)
        fold = data.fold(0)
        return fold.untrained(8, self.seed), fold.task(self.seed)


def by_hand(network: nn.Module, data: InTurns | Shuffled, epochs: int, precision: str) -> nn.Module:
    """A trained copy in eval mode."""
    trained = copy.deepcopy(network).train()
    parameters = list(trained.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    steps = sgd(groups, LEARNING_RATE)
    schedule = cosine(steps, epochs * len(data))
    for epoch in range(epochs):
        data.set_epoch(epoch)
        for x, target in data:
            steps.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                loss = F.cross_entropy(trained(x), target)
            loss.backward()
            steps.step()
            schedule.step()
    return trained.eval()


def sgd(groups: Any, lr: float) -> Optimizer:
    """With Nesterov's momentum of 0.9."""
    return SGD(groups, lr=lr, momentum=0.9, nesterov=True)


def cosine(optimizer: Optimizer, num_steps: int) -> LRScheduler:
    """Down to 0 over all steps."""
    return CosineAnnealingLR(optimizer, num_steps)

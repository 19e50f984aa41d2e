"""A problem that no line solves, and a network small enough to train in a blink.

Left out: batches of unequal size; the tests that need them make their own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from burnish.goal import Inputs, Task
from burnish.metrics import top1

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(96, 2, generator=GENERATOR)
Y = (X[:, 0] * X[:, 1] > 0).long()
BATCHES = [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 96, 16)]
FRESH = torch.randn(64, 2, generator=GENERATOR)
HELD_OUT = [(FRESH, (FRESH[:, 0] * FRESH[:, 1] > 0).long())]
EXAMPLE = Inputs(X[:2])


def network(dropout: float = 0.1) -> nn.Sequential:
    """Batch-norm and dropout, so that mode and generators matter."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 2)
    ).eval()


def plain() -> nn.Sequential:
    """Neither batch-norm nor dropout: a batch's gradient is the mean of its samples'."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))


def task(**changes: Any) -> Task:
    """The problem, with other parts where they are given."""
    parts = {"train": BATCHES, "validation": HELD_OUT, "loss": F.cross_entropy, **changes}
    return Task(EXAMPLE, top1, **parts)


def state(net: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all tensors."""
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def same(one: nn.Module, two: nn.Module) -> bool:
    """Whether all tensors are equal bit for bit."""
    other = two.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in one.state_dict().items())

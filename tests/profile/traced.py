"""Models traced for the tests of counting."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from burnish.graph import Traced, trace


def traced(model: nn.Module, *args: Any) -> Traced:
    """The model's graph, the first axis of each tensor the batch."""
    return trace(model.eval(), args)


class Block(nn.Module):
    """A residual block: what a runtime fuses, and a tensor that lives across it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = x + self.norm(self.conv(x)).relu()
        return result


class Net(nn.Module):
    """A few operators of several kinds: 8 x 8 images to 5 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.block = Block()
        self.head = nn.Linear(4 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.block(self.stem(x).relu()).flatten(1)).softmax(-1)
        return result

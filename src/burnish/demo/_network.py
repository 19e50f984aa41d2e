"""The demo's network: a small residual network, wide enough that arithmetic is what takes the time.

6.5 million multiply-accumulates an image. In a smaller one a runtime spends its time on calling
operators, and int8 has nothing to win; this one is trained in seconds all the same.

Left out: anything clever. It is He et al. (2015), two blocks of it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def _convolution(inputs: int, outputs: int, size: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


class Block(nn.Module):
    """Two convolutions of 3 x 3, the first halving the image, and a shortcut of 1 x 1."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = _convolution(inputs, outputs, 3, 2)
        self.second = _convolution(outputs, outputs, 3, 1)
        self.shortcut = _convolution(inputs, outputs, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


class DigitNet(nn.Module):
    """Images [n, 1, 28, 28] to logits [n, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _convolution(1, 32, 3, 2)
        self.blocks = nn.Sequential(Block(32, 64), Block(64, 128))
        self.classifier = nn.Linear(128, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.blocks(F.relu(self.stem(images)))
        logits: torch.Tensor = self.classifier(x.mean((2, 3)))
        return logits

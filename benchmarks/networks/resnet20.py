"""ResNet-20 and ResNet-56 for images of 32 × 32 (He, Zhang, Ren, Sun, 2015, section 4.2).

Shortcuts are of option A: every second pixel, and channels of zeros around what there is. They have
no parameters. Names of parameters are those of the state dicts of akamaster/pytorch_resnet_cifar10.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

WIDTHS = (16, 32, 64)
CLASSES = 10


class Block(nn.Module):
    """Two 3 × 3 convolutions and the shortcut around them."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.stride = 1 if channels_in == channels else 2
        self.added = channels - channels_in
        self.conv1 = nn.Conv2d(channels_in, channels, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.added:
            half = self.added // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
        return F.relu(out + x)


class ResNet(nn.Module):
    """float32 [n, 3, 32, 32] -> logits [n, 10]; three stages of as many blocks as said."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1, self.layer2, self.layer3 = (
            _stage(before, width, blocks)
            for before, width in zip((WIDTHS[0], *WIDTHS), WIDTHS, strict=False)
        )
        self.linear = nn.Linear(WIDTHS[-1], CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        logits: torch.Tensor = self.linear(out.mean((2, 3)))
        return logits


class ResNet20(ResNet):
    """Three blocks a stage: 0.27 million parameters, 41 million multiply-accumulates."""

    def __init__(self) -> None:
        super().__init__(3)


class ResNet56(ResNet):
    """Nine blocks a stage: 0.85 million parameters, 125 million multiply-accumulates."""

    def __init__(self) -> None:
        super().__init__(9)


def _stage(before: int, width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(Block(before, width), *(Block(width, width) for _ in range(blocks - 1)))

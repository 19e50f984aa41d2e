"""ResNet-18 and ResNet-50 for images of 224 × 224 (He, Zhang, Ren, Sun, 2015, table 1).

Weights are torch's initial ones: what is measured with them is time. As usual since 2017, the
stride of a bottleneck stands in its 3 × 3 convolution.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

WIDTHS = (64, 128, 256, 512)
CLASSES = 1000


class Basic(nn.Module):
    """Two 3 × 3 convolutions around a shortcut."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(before, width, 3, stride)
        self.conv2, self.bn2 = _conv(width, width, 3)
        self.shortcut = _shortcut(before, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1 × 1, 3 × 3, 1 × 1; four times as wide at its end."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(before, width, 1)
        self.conv2, self.bn2 = _conv(width, width, 3, stride)
        self.conv3, self.bn3 = _conv(width, 4 * width, 1)
        self.shortcut = _shortcut(before, 4 * width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """float32 [n, 3, 224, 224] -> logits [n, 1000]."""

    def __init__(self, block: type[Basic] | type[Bottleneck], depths: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(3, 64, 7, 2)
        grow = 4 if block is Bottleneck else 1
        before, blocks = 64, []
        for stage, (width, depth) in enumerate(zip(WIDTHS, depths, strict=True)):
            for index in range(depth):
                blocks.append(block(before, width, 2 if index == 0 and stage > 0 else 1))
                before = grow * width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        logits: torch.Tensor = self.head(self.blocks(x).mean((2, 3)))
        return logits


def resnet18() -> ResNet:
    """11.7 million parameters, 1.8 billion multiply-accumulates."""
    return ResNet(Basic, (2, 2, 2, 2)).eval()


def resnet50() -> ResNet:
    """25.6 million parameters, 4.1 billion multiply-accumulates."""
    return ResNet(Bottleneck, (3, 4, 6, 3)).eval()


def _conv(before: int, width: int, kernel: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    conv = nn.Conv2d(before, width, kernel, stride, kernel // 2, bias=False)
    return conv, nn.BatchNorm2d(width)


def _shortcut(before: int, width: int, stride: int) -> nn.Module:
    if stride == 1 and before == width:
        return nn.Identity()
    return nn.Sequential(*_conv(before, width, 1, stride))

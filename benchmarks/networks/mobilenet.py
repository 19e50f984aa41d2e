"""MobileNetV2 for images of 224 × 224 (Sandler, Howard, Zhu, Zhmoginov, Chen, 2018, table 2).

Weights are torch's initial ones: what is measured with them is time.
"""

from __future__ import annotations

import torch
from torch import nn

# expansion, channels, how often, stride of the first
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; added to its input where the shapes allow it."""

    def __init__(self, before: int, after: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = expansion * before
        expand = [_layer(before, inner, 1)] if expansion > 1 else []
        self.body = nn.Sequential(
            *expand,
            _layer(inner, inner, 3, stride, inner),
            nn.Conv2d(inner, after, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.added = stride == 1 and before == after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.body(x)
        return x + out if self.added else out


class MobileNetV2(nn.Module):
    """float32 [n, 3, 224, 224] -> logits [n, 1000]; 3.5 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        before, layers = 32, [_layer(3, 32, 3, 2)]
        for expansion, channels, repeats, stride in STAGES:
            for index in range(repeats):
                first = stride if index == 0 else 1
                layers.append(InvertedResidual(before, channels, expansion, first))
                before = channels
        self.features = nn.Sequential(*layers, _layer(before, 1280, 1))
        self.head = nn.Linear(1280, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(x).mean((2, 3)))
        return logits


def _layer(before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU6(),
    )

"""Small models that compute what others write down: pixels' places, numbers of groups, weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class CountedPixels(nn.Module):
    """EdgeNeXt's: a pixel's place is the sum of a mask of booleans up to it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.place = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(1, 6, 1)
        self.head = nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        there = ~torch.zeros(x.shape[0], *x.shape[2:]).to(torch.bool)
        rows = there.cumsum(1, dtype=x.dtype)[:, None]
        out: torch.Tensor = self.head(x + self.place(rows))
        return out


class FoldedBatch(nn.Module):
    """Samples times channels as the channels of one image, each smoothed by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.middle = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.middle(F.relu(self.stem(x)))
        n, c, h, w = x.shape
        kernel = torch.ones(n * c, 1, 3, 3, dtype=x.dtype)
        x = F.conv2d(x.reshape(1, n * c, h, w), kernel, padding=1, groups=n * c)
        out: torch.Tensor = self.head(x.reshape(n, c, h, w))
        return out


class Standardized(nn.Conv2d):
    """NFNet's: each filter has mean 0 and variance 1 over its inputs before it is used."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(rows, None, None, training=True, momentum=0.0)
        return F.conv2d(x, weight.reshape_as(self.weight), self.bias, padding=1)

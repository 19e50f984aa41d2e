"""Tiny convolutional models: what ends a layer, what joins two, what moves channels about.

Each file of models ends in a tuple of `Tiny`, which the catalogue strings together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import nn

from burnish.goal import Inputs
from burnish.testing._tiny import Sampler, Tiny


def image(*shape: int) -> Sampler:
    """Samples of standard normal noise of `shape`, the batch before it."""

    def draw(generator: torch.Generator, sizes: Mapping[str, int]) -> Inputs:
        return Inputs(torch.randn(sizes["batch"], *shape, generator=generator))

    return draw


def _conv(
    inputs: int, outputs: int, size: int = 3, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    convolution = nn.Conv2d(
        inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=False
    )
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


def _head(channels: int, classes: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def _plain() -> nn.Module:
    return nn.Sequential(
        _conv(3, 8), nn.ReLU(), nn.MaxPool2d(2), _conv(8, 12), nn.ReLU(), _head(12)
    )


class Residual(nn.Module):
    """Two basic blocks; the second narrows the image, its shortcut a convolution where asked."""

    def __init__(self, projection: bool) -> None:
        super().__init__()
        self.stem = _conv(3, 8)
        self.body = nn.Sequential(_conv(8, 8), nn.ReLU(), _conv(8, 8))
        outputs = 12 if projection else 8
        stride = 2 if projection else 1
        self.last = nn.Sequential(
            _conv(8, outputs, stride=stride), nn.ReLU(), _conv(outputs, outputs)
        )
        self.shortcut = _conv(8, outputs, 1, stride=stride) if projection else nn.Identity()
        self.head = _head(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.body(x))
        x = F.relu(self.last(x) + self.shortcut(x))
        logits: torch.Tensor = self.head(x)
        return logits


def _separable() -> nn.Module:
    """The beginning of a MobileNet as TensorFlow pads it: right and below only."""
    return nn.Sequential(
        nn.ZeroPad2d((0, 1, 0, 1)),
        nn.Conv2d(3, 8, 3, stride=2, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        *(_conv(8, 8, groups=8), nn.ReLU6(), _conv(8, 12, 1), nn.ReLU6()),
        nn.ZeroPad2d((0, 1, 0, 1)),
        nn.Conv2d(12, 12, 3, stride=2, groups=12, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU6(),
        *(_conv(12, 16, 1), _head(16)),
    )


class Concatenating(nn.Module):
    """An inception block (branches side by side), then a dense one (input kept beside output)."""

    def __init__(self) -> None:
        super().__init__()
        self.one = _conv(3, 4, 1)
        self.three = _conv(3, 6, 3)
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)
        self.project = _conv(3, 4, 1)
        self.grow = _conv(14, 6)
        self.head = _head(20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branches = [F.relu(self.one(x)), F.relu(self.three(x)), F.relu(self.project(self.pool(x)))]
        x = torch.cat(branches, dim=1)
        x = torch.cat([x, F.relu(self.grow(x))], dim=1)
        logits: torch.Tensor = self.head(x)
        return logits


class Shuffling(nn.Module):
    """Grouped convolutions with their channels shuffled between, as in ShuffleNet."""

    def __init__(self) -> None:
        super().__init__()
        self.first = _conv(4, 8, 1, groups=2)
        self.second = _conv(8, 8, 3, groups=8)
        self.third = _conv(8, 8, 1, groups=2)
        self.head = _head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.first(x))
        batch, channels, height, width = x.shape
        x = x.reshape(batch, 2, channels // 2, height, width).transpose(1, 2)
        x = x.reshape(batch, channels, height, width)
        logits: torch.Tensor = self.head(F.relu(self.third(self.second(x))))
        return logits


class SqueezeExcite(nn.Module):
    """An inverted bottleneck with SiLU, its channels weighed by what their mean says."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = _conv(3, 12, 1)
        self.depthwise = _conv(12, 12, 3, groups=12)
        self.squeeze = nn.Conv2d(12, 4, 1)
        self.excite = nn.Conv2d(4, 12, 1)
        self.project = _conv(12, 8, 1)
        self.head = _head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.silu(self.depthwise(F.silu(self.expand(x))))
        weights = torch.sigmoid(self.excite(F.silu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        logits: torch.Tensor = self.head(self.project(x * weights))
        return logits


def _hard_swish() -> nn.Module:
    return nn.Sequential(
        _conv(3, 8),
        nn.Hardswish(),
        _conv(8, 8, groups=8),
        nn.Hardswish(),
        _conv(8, 12, 1),
        _head(12),
    )


def _grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=4),
        nn.ReLU(),
        nn.AvgPool2d(2),
        _head(12),
    )


def _conv1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 8, 5, padding=2, bias=False),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(8, 12, 3, dilation=2),
        nn.GELU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    )


def _conv3d() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 6, 3, padding=1, bias=False),
        nn.BatchNorm3d(6),
        nn.ReLU(),
        nn.MaxPool3d(2),
        nn.Conv3d(6, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


def _transposed() -> nn.Module:
    """A little encoder and decoder: the image comes back at its own size."""
    return nn.Sequential(
        *(_conv(3, 8, stride=2), nn.ReLU()),
        nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.Conv2d(4, 2, 1),
    )


def _tiny(name: str, make: Callable[[], nn.Module], sample: Sampler, topologies: str) -> Tiny:
    return Tiny(name, make, sample, frozenset({"convolution", *topologies.split()}))


CONVOLUTIONAL = (
    _tiny("plain_cnn", _plain, image(3, 12, 12), "batch_norm max_pool"),
    _tiny("residual", lambda: Residual(False), image(3, 10, 10), "batch_norm residual"),
    _tiny(
        "residual_projection",
        lambda: Residual(True),
        image(3, 10, 10),
        "batch_norm residual projection",
    ),
    _tiny("separable", _separable, image(3, 16, 16), "batch_norm depthwise relu6 padding"),
    _tiny("concat", Concatenating, image(3, 10, 10), "batch_norm concat max_pool"),
    _tiny("shuffle", Shuffling, image(4, 10, 10), "batch_norm depthwise grouped shuffle"),
    _tiny(
        "squeeze_excite",
        SqueezeExcite,
        image(3, 10, 10),
        "batch_norm depthwise silu multiplication",
    ),
    _tiny("hard_swish", _hard_swish, image(3, 10, 10), "batch_norm depthwise hard_swish"),
    _tiny("grouped", _grouped, image(4, 12, 12), "grouped average_pool"),
    _tiny("conv1d", _conv1d, image(3, 24), "batch_norm one_dimensional gelu max_pool"),
    _tiny("conv3d", _conv3d, image(2, 6, 8, 8), "batch_norm three_dimensional max_pool"),
    _tiny("transposed", _transposed, image(3, 8, 8), "batch_norm transposed grouped"),
)

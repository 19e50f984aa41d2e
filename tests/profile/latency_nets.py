"""A small network of any width, and a clock that makes times up."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F

from burnish.graph import Traced, trace
from burnish.profile._latency_clock import Observed
from burnish.profile._latency_family import is_free
from burnish.profile._shape import OpShape, macs, shapes

FUSED = ("batch_norm", "relu", "relu6")
BETWEEN = 2e-6  # seconds an operator costs beside its counters
OUTSIDE = 3e-5


class Small(nn.Module):
    """Two convolutions, a depthwise one, a shortcut, a linear layer."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, padding=1)
        self.depthwise = nn.Conv2d(second, second, 3, padding=1, groups=second)
        self.linear = nn.Linear(second, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv2(F.relu(self.bn1(self.conv1(x))))
        x = F.relu6(self.depthwise(x)) + x
        logits: torch.Tensor = self.linear(x.mean((2, 3)))
        return logits


def small(first: int, second: int) -> Traced:
    """Its graph, on images of 12 × 12."""
    return trace(Small(first, second).eval(), (torch.randn(2, 3, 12, 12),))


def blocked(shape: OpShape, block: int = 16) -> float:
    """Seconds of an operator on a machine of blocks: odd widths take half as long again."""
    if is_free(shape):
        return 0.0
    elements = sum(map(math.prod, (*shape.inputs, *shape.outputs)))
    seconds = 1e-6 + elements * 1e-10 + (macs(shape) or 0) * 1e-10
    if shape.kind in ("conv2d", "linear"):
        widths = (shape.weights[0][0], shape.inputs[0][1])
        seconds *= 1.5 if any(width > block and width % block for width in widths) else 1.0
    return seconds


@dataclass
class MadeUp:
    """A clock: `price` tells an operator's seconds, `noise` is the deviation of a measurement.

    In a model what is in FUSED costs nothing, and a convolution a tenth more.
    """

    price: Callable[[OpShape], float] = blocked
    noise: float = 0.0
    asked: list[OpShape] = field(default_factory=list)
    _random: random.Random = field(default_factory=lambda: random.Random(0))

    def shapes(self, shapes: Sequence[OpShape], progress: Callable[[float], None]) -> list[float]:
        self.asked += shapes
        progress(1.0)
        return [self._noisy(self.price(shape)) for shape in shapes]

    def model(self, model: Traced) -> Observed:
        operators = self.in_place(model)
        return Observed(self._noisy(self.truth(model)), operators)

    def truth(self, model: Traced) -> float:
        """What a whole model takes, without noise."""
        operators = self.in_place(model)
        return OUTSIDE + sum(operators.values()) + BETWEEN * len(operators)

    def in_place(self, model: Traced) -> Mapping[str, float]:
        found = {}
        for name, shape in shapes(model, 1).items():
            factor = 0.0 if shape.kind in FUSED else 1.1 if shape.kind == "conv2d" else 1.0
            found[name] = factor * self.price(shape)
        return found

    def _noisy(self, seconds: float) -> float:
        return seconds * math.exp(self._random.gauss(0.0, self.noise))

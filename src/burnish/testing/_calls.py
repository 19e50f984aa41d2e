"""Tiny models whose calls are unusual: a module used twice, several inputs, nested outputs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from burnish.goal import Inputs
from burnish.testing._convolutional import image
from burnish.testing._tiny import Tiny


class SharedModule(nn.Module):
    """One linear layer called twice, with different ranges each time."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 12)
        self.shared = nn.Linear(12, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.shared(self.embed(x)))
        logits: torch.Tensor = self.head(F.relu(self.shared(3.0 * x)))
        return logits


class TwoInputs(nn.Module):
    """An image and a vector of features, by position, added in a common space."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.features = nn.Linear(6, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, picture: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        seen = F.relu(self.conv(picture)).mean((2, 3))
        logits: torch.Tensor = self.head(F.relu(seen + self.features(features)))
        return logits


class DictOutput(nn.Module):
    """A body and two heads, out as a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.classes = nn.Linear(8, 5)
        self.boxes = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.body(x)
        return {"logits": self.classes(x.mean((2, 3))), "boxes": self.boxes(x)}


class NestedOutput(nn.Module):
    """Features of two levels and a pair of heads: a tuple of a list and a list."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.heads = nn.ModuleList([nn.Linear(8, 5), nn.Linear(8, 2)])

    def forward(self, x: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        near = F.relu(self.first(x))
        far = F.relu(self.second(near))
        pooled = far.mean((2, 3))
        return [near, far], [head(pooled) for head in self.heads]


def _picture_and_features(generator: torch.Generator, sizes: Mapping[str, int]) -> Inputs:
    picture = torch.randn(sizes["batch"], 3, 8, 8, generator=generator)
    return Inputs((picture, torch.randn(sizes["batch"], 6, generator=generator)))


CALLS = (
    Tiny("shared_module", SharedModule, image(8), frozenset({"linear", "shared"})),
    Tiny(
        "two_inputs",
        TwoInputs,
        _picture_and_features,
        frozenset({"convolution", "linear", "several_inputs"}),
    ),
    Tiny(
        "dict_output", DictOutput, image(3, 8, 8), frozenset({"convolution", "batch_norm", "dict"})
    ),
    Tiny("nested_output", NestedOutput, image(3, 8, 8), frozenset({"convolution", "nested"})),
)

"""Tiny models of corners the catalogue leaves out, each of which once was, or might be, a bug."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import nn

from burnish.goal import Inputs
from burnish.testing import Tiny

Sampler = Callable[[torch.Generator, Mapping[str, int]], Inputs]


class Split(nn.Module):
    """Half of the channels go around, as in ShuffleNetV2: a list of tensors inside the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.branch = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = F.relu(self.stem(x)).chunk(2, dim=1)
        joined = torch.cat([left, F.relu(self.branch(right))], dim=1)
        logits: torch.Tensor = self.head(joined).mean((2, 3))
        return logits


class SplitInFloat(nn.Module):
    """One part of a split is read in float: the other must not be taken for quantized."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Conv2d(4, 5, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        left, right = self.stem(x).split([4, 4], dim=1)
        return self.head(left), right.exp()


class StoredMatrix(nn.Module):
    """`x @ matrix` with a parameter, then a linear layer over three axes."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(6, 9) * 0.4)
        self.head = nn.Linear(9, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(F.relu(x @ self.matrix))
        return logits


class Scalars(nn.Module):
    """Constants between layers, the input itself as an output, and integers as a second input."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding="same")
        self.second = nn.Conv2d(6, 6, (3, 5), padding="same", bias=False)
        self.offset = nn.Parameter(torch.randn(6, 1, 1))

    def forward(
        self, x: torch.Tensor, shift: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        y = self.second(F.relu(self.first(x) + 0.5) * self.offset)
        return y, x, shift + 1


class SharedConvolution(nn.Module):
    """One convolution called twice: each call has quantizers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.shared = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.shared(F.relu(self.stem(x))))
        y: torch.Tensor = self.shared(x)
        return y


class Pyramid(nn.Module):
    """A small U: pooled, upsampled to the nearest, and concatenated with what was before."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Conv2d(3, 6, 3, padding=1)
        self.coarse = nn.Conv2d(6, 8, 3, padding=1)
        self.head = nn.Conv2d(14, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine = F.relu(self.fine(x))
        coarse = self.coarse(F.avg_pool2d(fine, 2))
        y: torch.Tensor = self.head(torch.cat([fine, F.interpolate(coarse, scale_factor=2)], 1))
        return y


class FloatBetween(nn.Module):
    """Layers without activations and with, to be kept in float between int8 ones."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3)
        self.b = nn.Conv2d(8, 8, 3)
        self.c = nn.Conv2d(8, 8, 1)
        self.d = nn.Linear(8, 8)
        self.e = nn.Linear(8, 8)
        self.f = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.c(self.b(F.relu(self.a(x)))).mean((2, 3))
        logits: torch.Tensor = self.f(self.e(F.relu(self.d(x))))
        return logits


class Dense(nn.Module):
    """A ReLU behind a concatenation, as in DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.third = nn.Conv2d(12, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        y: torch.Tensor = self.third(F.relu(torch.cat([x, self.second(F.relu(x))], 1)))
        return y


def _activations() -> nn.Module:
    """Activations that kernels take in, and such that they do not."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(8, 8, 1), nn.Hardtanh(-0.5, 0.5)),
        *(nn.Conv2d(8, 8, 1), nn.ReLU6()),
        *(nn.Conv2d(8, 8, 1), nn.Sigmoid()),
        nn.Conv2d(8, 4, 1),
    )


def _images(generator: torch.Generator, sizes: Mapping[str, int]) -> Inputs:
    return Inputs(torch.randn(sizes["batch"], 3, 8, 8, generator=generator))


def _sequences(generator: torch.Generator, sizes: Mapping[str, int]) -> Inputs:
    return Inputs(torch.randn(sizes["batch"], 5, 6, generator=generator))


def _image_and_integers(generator: torch.Generator, sizes: Mapping[str, int]) -> Inputs:
    numbers = torch.randint(0, 9, (sizes["batch"], 2), generator=generator)
    return Inputs((torch.randn(sizes["batch"], 3, 8, 8, generator=generator), numbers))


def _one_image(generator: torch.Generator, sizes: Mapping[str, int]) -> Inputs:
    return Inputs(torch.randn(3, 8, 8, generator=generator), batch_axis=None)


def _tiny(name: str, make: Callable[[], nn.Module], sample: Sampler = _images) -> Tiny:
    return Tiny(name, make, sample, frozenset({"corner"}))


CORNERS = (
    _tiny("split", Split),
    _tiny("split_in_float", SplitInFloat),
    _tiny("stored_matrix", StoredMatrix, _sequences),
    _tiny("scalars", Scalars, _image_and_integers),
    _tiny("shared_convolution", SharedConvolution),
    _tiny("pyramid", Pyramid),
    _tiny("float_between", FloatBetween),
    _tiny("activations", _activations),
    _tiny(
        "unbatched",
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1)),
        _one_image,
    ),
    _tiny("dense", Dense),
)

"""A model of the zoo: how it is built, and its images.

Weights are drawn at random, and drawn so that a wrong channel shows: nothing that a constructor
sets to a constant (a layer scale of 1e-6, a last layer of zeros, a batch-norm that does nothing)
stays one.

Left out: inputs other than images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

SEED = 0


@dataclass(frozen=True)
class Entry:
    """A model of the zoo.

    Args:
        name: its name, for detectors with the part.
        source: the package and kind.
        pixels: the sides of its images.
        make: builds it; weights as its constructor draws them.
        large: it needs gigabytes.
        listed: whether images come as a list, one tensor each.
    """

    name: str
    source: str
    pixels: int
    make: Callable[[], nn.Module]
    large: bool = False
    listed: bool = False

    def build(self) -> nn.Module:
        """The same model at every call, in eval mode."""
        torch.manual_seed(SEED)
        model = self.make().eval()
        with torch.no_grad():
            _stir(model)
        return model

    def images(self, batch: int, dtype: torch.dtype = torch.float32) -> Any:
        """As many random images."""
        generator = torch.Generator().manual_seed(SEED + batch)
        images = torch.randn(batch, 3, self.pixels, self.pixels, generator=generator).to(dtype)
        return list(images) if self.listed else images


def _stir(model: nn.Module) -> None:
    """Draw anew what is constant: near 0 by a normal distribution, elsewhere by some factor."""
    for parameter in model.parameters():
        if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
            if abs(float(parameter.flatten()[0])) < 0.01:
                parameter.normal_(0, 0.05)
            else:
                parameter.mul_(torch.empty_like(parameter).uniform_(0.5, 1.5))
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)

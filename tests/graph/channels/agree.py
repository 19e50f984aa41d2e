"""Remove some channels of every group, both ways: masked and for real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from burnish.graph import Channels, Traced, flatten, mask_channels, shrink_channels


def third(channels: Channels, seed: int = 0) -> dict[str, list[int]]:
    """A third of the channels of each group that has more than one, drawn at random."""
    draw = np.random.default_rng(seed)
    return {
        group.name: sorted(
            draw.choice(group.num_channels, max(1, group.num_channels // 3), replace=False).tolist()
        )
        for group in channels.free
        if group.num_channels > 1
    }


def both(channels: Channels, removed: Mapping[str, Sequence[int]]) -> tuple[Traced, Traced]:
    """The masked graph and the shrunk one."""
    return mask_channels(channels, removed), shrink_channels(channels, removed)


def difference(one: nn.Module, other: nn.Module, args: tuple[torch.Tensor, ...]) -> float:
    """The largest relative difference of their outputs."""
    with torch.no_grad():
        pairs = zip(flatten(one(*args))[0], flatten(other(*args))[0], strict=True)
        return max(float((a - b).norm() / a.norm()) for a, b in pairs)

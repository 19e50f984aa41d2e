"""What our own tools share: the network of a task, its trace, its calls. First environment only."""

from __future__ import annotations

from pathlib import Path

import torch
from handover import Arrays, Given
from models import Sources, network
from torch import nn

from burnish.graph import Traced, trace

BATCH = 16


def network_of(given: Given) -> nn.Module:
    """The task's float network, in eval mode."""
    paths = {name: Path(path) for name, path in given.sources.items()}
    return network(given.model, Sources(**paths))


def traced_of(given: Given, module: nn.Module) -> Traced:
    """Its trace, with a batch of any size."""
    return trace(module, tensors(given.samples(0, 2)))


def tensors(arrays: Arrays) -> tuple[torch.Tensor, ...]:
    """A call's tensors."""
    return tuple(torch.from_numpy(array) for array in arrays.values())

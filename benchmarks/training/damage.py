"""What is done to a network that the recovery ladder is then asked to mend.

*Rounded*: every weight to the nearest of 15 multiples of its output channel's scale, the largest
weight's being 7 (4 bits, symmetric). *Masked weights*: the smaller half of each layer's weights by
magnitude is 0. *Masked channels*: in every block the half of the inner channels whose kernels have
the smaller norm is 0, where it is made and where it is read, so that no batch-norm can bring it
back. The first convolution and the classifier are rounded and masked as all others, but have no
inner channels.
"""

from __future__ import annotations

import copy

import torch
from networks.resnet20 import Block, ResNet
from torch import nn

LEVELS = 7


def rounded(network: ResNet) -> ResNet:
    """A copy whose weights have 4 bits."""
    found = copy.deepcopy(network)
    with torch.no_grad():
        for layer in _layers(found):
            weight = layer.weight
            scale = _scale(weight)
            weight.copy_((weight / scale).round() * scale)
    return found


def masked_weights(network: ResNet) -> ResNet:
    """A copy with half of each layer's weights 0."""
    found = copy.deepcopy(network)
    with torch.no_grad():
        for layer in _layers(found):
            weight = layer.weight
            smaller = weight.abs().flatten().argsort()[: weight.numel() // 2]
            weight.masked_fill_(_mask(weight, smaller), 0.0)
    return found


def masked_channels(network: ResNet) -> ResNet:
    """A copy with half of the inner channels of each block 0."""
    found = copy.deepcopy(network)
    with torch.no_grad():
        for block in found.modules():
            if isinstance(block, Block):
                norms = block.conv1.weight.flatten(1).norm(dim=1)
                smaller = norms.argsort()[: len(norms) // 2]
                block.conv1.weight[smaller] = 0.0
                block.conv2.weight[:, smaller] = 0.0
    return found


def zeros(network: nn.Module) -> list[torch.Tensor]:
    """Where weights are 0, layer by layer."""
    return [layer.weight == 0 for layer in _layers(network)]


def most_levels(network: nn.Module) -> int:
    """The most distinct weights that any output channel has."""
    rows = (row for layer in _layers(network) for row in layer.weight.detach().flatten(1))
    return max(len(row.unique()) for row in rows)


def _layers(network: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def _scale(weight: torch.Tensor) -> torch.Tensor:
    """One for each output channel, in the weight's rank."""
    largest = weight.flatten(1).abs().amax(1).clamp_min(torch.finfo(weight.dtype).tiny)
    return (largest / LEVELS).view(-1, *(1,) * (weight.dim() - 1))


def _mask(weight: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """True at some places, counted through the weight's shape."""
    flat = torch.zeros(weight.numel(), dtype=torch.bool)
    flat[indices] = True
    return flat.view(weight.shape)

"""A deep copy of a model, also of one that keeps what it computed in its last call.

A module whose weight is the product of a parameter and a mask (torch.nn.utils.prune), or of a
direction and a length (weight_norm), keeps that product as an attribute between calls, and torch
refuses to copy a tensor that hangs on the graph of a computation. The copy gets its value: the next
call computes it anew.
"""

from __future__ import annotations

import copy

import torch
from torch import nn


def copied_model(model: nn.Module) -> nn.Module:
    """A deep copy. Raises what `copy.deepcopy` raises for anything else that cannot be copied."""
    known: dict[int, object] = {}  # what deepcopy finds in here it takes for copied
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                known[id(value)] = value.detach().clone()
    return copy.deepcopy(model, known)

"""Holding zeroed weights at zero while a model trains, so that a pruned model stays pruned.

A weight that is zero and whose gradient is zero stays zero under every optimizer we know: momentum
of nothing is nothing, and decay takes a share of nothing. So the mask lives in the gradient: a hook
on each parameter clears it where the weight was zero when the training began. The forward pass is
the model's own, and costs nothing more.

Parameters of one dimension (biases, the scales and shifts of norms) are not held: they begin at
zero for other reasons than pruning.

Left out: optimizers that move a weight without a gradient (noise, say); and masks that change
during the training.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle


def hold_zeros(model: nn.Module) -> list[RemovableHandle]:
    """Let the zeros of each weight of two dimensions or more stay, from now on.

    The hooks are on the parameters of `model` itself, are lost by a deep copy, and stay until the
    handles are removed.
    """
    handles = []
    for parameter in model.parameters():
        if parameter.dim() < 2 or not parameter.requires_grad:
            continue
        zero = parameter.detach() == 0
        if bool(zero.any()):
            handles.append(parameter.register_hook(_cleared(zero)))  # type: ignore[no-untyped-call]
    return handles


def _cleared(zero: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    # Filled, not multiplied: 0 * inf, as a scaled float16 gradient may hold, is NaN.
    def hook(gradient: torch.Tensor) -> torch.Tensor:
        return gradient.masked_fill(zero.to(gradient.device), 0.0)

    return hook

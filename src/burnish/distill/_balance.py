"""A signal's weight from the losses themselves: its part is kept at a ratio of another.

The scale of a feature loss says nothing: attention maps are unit vectors, hints are squares of
whatever the layer holds, so that papers give weights from 0.02 to 3000. Here the weight is

    ratio * mean(anchor) / mean(own)

with running means (0.9 of the old, 0.1 of the new) of both losses, and no gradient through it: the
part that enters the sum is `ratio` times as large as the anchor, whatever the signal's units. The
anchor is the weighted loss on the labels, or, without labels, the first signal.

A loss that is nearly 0 from the start (a layer in which a copy still agrees with its original)
would be blown up to nothing but rounding errors, so the weight ends at `LIMIT`, above what any
paper has for its signal. A loss that may be negative (VID) has no ratio and is refused.

The means are buffers: they are checkpointed with the training and a resumed run goes on from them.

Left out: balancing by gradient norms (Chen et al. 2018, GradNorm), which costs a backward pass for
each loss; means shared between processes (each balances its own batches).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from burnish.distill._setting import Setting, check_setting
from burnish.errors import InvalidInput

KEPT = 0.9
LIMIT = 1e5


@dataclass(frozen=True)
class Balanced:
    """A signal whose part of the loss is held at `ratio` times the loss on the labels.

    Without labels it is held at `ratio` times the first signal. Until the first labelled sample its
    weight is 1. The weight of the wrapped signal is not used. Not for `VID`, whose loss may be
    negative.

    Args:
        signal: on outputs or on features.
        ratio: a number above 0, or a schedule of it.

    Raises:
        InvalidInput: a ratio that is no such number; a signal that is balanced already.
    """

    signal: Any
    ratio: Setting = 1.0

    def __post_init__(self) -> None:
        check_setting("Balanced", "ratio", self.ratio)
        if isinstance(self.signal, Balanced):
            raise InvalidInput("Balanced(Balanced(…)): one ratio is enough; give the signal itself")


class Scale(nn.Module):
    """The running means of an anchor and of a loss; called with both, it gives their ratio."""

    anchor: torch.Tensor
    own: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("anchor", torch.zeros((), dtype=torch.float64))
        self.register_buffer("own", torch.zeros((), dtype=torch.float64))

    def forward(self, anchor: torch.Tensor | None, own: torch.Tensor) -> torch.Tensor:
        """mean(anchor) / mean(own), at most `LIMIT`; 1 as long as one of the two is zero.

        Both means begin at 0 and see the same steps, so that their ratio has no bias to correct.
        In eval mode they stand still.
        """
        if anchor is not None and self.training:
            for mean, value in ((self.anchor, anchor), (self.own, own)):
                mean.mul_(KEPT).add_(value.detach().to(mean.dtype), alpha=1 - KEPT)
        known = (self.anchor > 0) & (self.own > 0)
        ratio = self.anchor / self.own.clamp_min(torch.finfo(torch.float64).tiny)
        return torch.where(known, ratio, torch.ones_like(ratio)).clamp_max(LIMIT).float()

"""Attention transfer: the student should look where the teacher looks.

The attention of a map is the sum over channels of its squares: one number per position, then
brought to length 1 over all positions of a sample. Channels are summed away, so the two widths may
differ and nothing has to be learned.

The paper writes the norm of the difference; its authors' code, and this, the mean square, whose
gradient exists where the two agree (as they nearly do when a pruned copy learns from its original).

Left out: the gradient-based attention of the same paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from burnish.distill._adapter import check_samples, same_positions
from burnish.distill._features import OneLayer
from burnish.distill._relations import unit
from burnish.distill._setting import Setting
from burnish.distill._wide import wide
from burnish.errors import InvalidInput


@wide
def attention_transfer_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of normalised attention maps (Zagoruyko and Komodakis, 2017).

    Args:
        student: the student's feature, [N, C, *positions].
        teacher: the teacher's, [N, C', *positions], as many positions; takes no gradient.

    Returns:
        A scalar, in float32 at least: the mean over samples and positions.

    Raises:
        InvalidInput: no positions, or others on one side than on the other; two batch sizes.
    """
    check_samples(student, teacher)
    _check_attended(student.shape, teacher.shape)
    if student.shape[2:] != teacher.shape[2:]:
        raise InvalidInput(
            f"the student's feature {list(student.shape)} and the teacher's "
            f"{list(teacher.shape)} have different positions: pool the larger first, as "
            "AttentionTransfer does"
        )
    return F.mse_loss(_attention(student), _attention(teacher))


@dataclass(frozen=True)
class AttentionTransfer(OneLayer):
    """Match which positions of a map (or sequence) carry the most activation.

    Args:
        tap: the two layers, usually the last ones of a stage.
        weight: 1000 as in the paper's code.
    """

    kind = "attention"

    weight: Setting = 1000.0

    def _build(self, student: torch.Size, teacher: torch.Size) -> nn.Module | None:
        _check_attended(student, teacher)
        self._check_positions(student, teacher)
        return None

    def _loss(
        self, student: torch.Tensor, teacher: torch.Tensor, adapter: nn.Module | None
    ) -> torch.Tensor:
        tokens = self._tokens(student.shape)
        return attention_transfer_loss(*same_positions(student, teacher, tokens=tokens))


def _attention(feature: torch.Tensor) -> torch.Tensor:
    """[N, number of positions], each sample of length 1."""
    return unit(feature.square().sum(dim=1).flatten(1))


def _check_attended(student: torch.Size, teacher: torch.Size) -> None:
    for side, shape in (("student", student), ("teacher", teacher)):
        if len(shape) < 3 or shape[2:].numel() < 2:
            raise InvalidInput(
                f"the {side}'s feature {list(shape)} has not two positions to attend to: tap a "
                "layer that gives maps or sequences, before pooling"
            )

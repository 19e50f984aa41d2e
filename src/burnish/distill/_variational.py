"""Variational information distillation: the student should hold what tells the teacher's feature.

Mutual information between the two features is bounded from below by how well a Gaussian around a
function of the student's predicts the teacher's. The mean is a small network on the student's
feature (three projections of channels with ReLU between), the variance one number per channel; both
are learned along, and thrown away with the teacher. A channel the student cannot predict gets a
large variance and stops to pull, which is what a hint with its fixed scale lacks.

The paper sums over channels and positions; this is the mean, so that a weight means the same for
every layer. The constant log(2π)/2 is left out, as there: the loss may be negative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from burnish.distill._adapter import Adapter, same_positions
from burnish.distill._features import OneLayer
from burnish.distill._wide import wide
from burnish.errors import InvalidInput

FIRST_VARIANCE = 5.0  # as in the authors' code
SMALLEST_VARIANCE = 1e-5


@wide
def vid_loss(student: torch.Tensor, teacher: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of the teacher's feature under a Gaussian (Ahn et al., 2019).

    Args:
        student: the mean that was predicted from the student's feature, [N, C, *positions].
        teacher: the teacher's feature, the same shape; takes no gradient.
        variance: of each channel, [C], above 0.

    Returns:
        A scalar, in float32 at least: the mean over samples, channels and positions.

    Raises:
        InvalidInput: two shapes, or not one variance per channel.
    """
    if student.shape != teacher.shape or variance.shape != teacher.shape[1:2]:
        raise InvalidInput(
            f"the prediction is {list(student.shape)} with {list(variance.shape)} variances and "
            f"the teacher's feature {list(teacher.shape)}: the shapes must be equal, with one "
            "variance per channel (axis 1)"
        )
    variance = variance.view(1, -1, *[1] * (teacher.dim() - 2))
    return (variance.log() + (teacher - student).square() / variance).mean() / 2


class Regressor(nn.Module):
    """The mean at each position and the variance of each channel, from the student's feature."""

    def __init__(self, student: Sequence[int], teacher: Sequence[int]) -> None:
        super().__init__()
        positions, width = len(student) - 2, teacher[1]
        self.mean = nn.Sequential(
            Adapter(student[1], width, positions),
            nn.ReLU(),
            Adapter(width, width, positions),
            nn.ReLU(),
            Adapter(width, width, positions),
        )
        first = math.log(math.expm1(FIRST_VARIANCE - SMALLEST_VARIANCE))
        self.scale = nn.Parameter(torch.full((width,), first))

    def forward(self, feature: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """([N, C, *positions], [C])."""
        return self.mean(feature), F.softplus(self.scale) + SMALLEST_VARIANCE


@dataclass(frozen=True)
class VID(OneLayer):
    """Raise a lower bound of the mutual information between the two features.

    Vectors, sequences and maps, the same kind on both sides; always learns a regressor. The loss
    falls below 0 as variances do, so it has no ratio to others: give it a weight, not `Balanced`.

    Args:
        tap: the two layers.
        weight: 1 is what comparisons on CIFAR-100 use.
    """

    kind = "vid"

    def _build(self, student: torch.Size, teacher: torch.Size) -> nn.Module | None:
        self._check_positions(student, teacher)
        return Regressor(student, teacher)

    def _loss(
        self, student: torch.Tensor, teacher: torch.Tensor, adapter: nn.Module | None
    ) -> torch.Tensor:
        assert adapter is not None
        tokens = self._tokens(student.shape)
        student, teacher = same_positions(student, teacher, tokens=tokens)
        mean, variance = adapter(student)
        return vid_loss(mean, teacher, variance)

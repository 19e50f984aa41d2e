"""Hints: the student's feature itself should become the teacher's (FitNets).

The loss is the mean squared difference between the teacher's feature and the student's after its
adapter. The paper writes half the sum of squares: the mean is 2 / (number of elements) times that,
so that a weight means the same for every layer and batch.

Left out: FitNets' two stages (first the hint alone, then the rest). A weight that is a `Schedule`
going down to 0 comes close. Its regressor also shrank maps by convolving without padding; here
positions are pooled.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from burnish.distill._adapter import adapter as grow
from burnish.distill._adapter import same_positions
from burnish.distill._features import OneLayer
from burnish.distill._setting import Setting
from burnish.distill._wide import wide
from burnish.errors import InvalidInput


@wide
def hint_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of two features of one shape (Romero et al., 2015, equation 3).

    Args:
        student: the student's feature, already in the teacher's shape.
        teacher: the teacher's, any shape; takes no gradient.

    Returns:
        A scalar, in float32 at least.

    Raises:
        InvalidInput: two shapes.
    """
    if student.shape != teacher.shape:
        raise InvalidInput(
            f"the student's feature is {list(student.shape)} and the teacher's "
            f"{list(teacher.shape)}: a hint compares them element by element; bring the student's "
            "into the teacher's shape first, as Hint does with an adapter of its own"
        )
    return F.mse_loss(student, teacher)


@dataclass(frozen=True)
class Hint(OneLayer):
    """Pull a feature of the student towards the teacher's, element by element.

    Vectors, sequences and maps, the same kind on both sides. Where the widths differ, an affine
    projection of the student's channels is learned along.

    Args:
        tap: the two layers.
        weight: 100 is what comparisons on CIFAR-100 use.
    """

    kind = "hint"

    weight: Setting = 100.0

    def _build(self, student: torch.Size, teacher: torch.Size) -> nn.Module | None:
        self._check_positions(student, teacher)
        return grow(student, teacher)

    def _loss(
        self, student: torch.Tensor, teacher: torch.Tensor, adapter: nn.Module | None
    ) -> torch.Tensor:
        tokens = self._tokens(student.shape)
        student, teacher = same_positions(student, teacher, tokens=tokens)
        return hint_loss(student if adapter is None else adapter(student), teacher)

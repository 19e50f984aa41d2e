"""DIST: keep how classes relate, not the probabilities themselves.

A large teacher's probabilities may be out of a small student's reach; their order and proportions
need not be. The loss is one minus Pearson's correlation of the softened probabilities, taken twice:

    between the classes of each sample      mean over the rows of 1 - r(q_i., p_i.)
    between the samples for each class      mean over the columns of 1 - r(q_.j, p_.j)

times T^2, as the authors' code has it. Correlation forgives any shift and scale.

A row or column that does not vary (a head that starts at zero, a class never met, a batch of one)
has no correlation. `EPSILON` stands in its variance, so that r is 0 there and the gradient finite.

Left out: the relation to intermediate features, which the authors tried on detection only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from burnish.distill._logits import rows
from burnish.distill._setting import Setting, at, check_number, check_setting
from burnish.train import Moment

EPSILON = 1e-8  # on sums of squares: deviations of 1e-4 and more are seen as they are


def dist(
    student: torch.Tensor,
    teacher: torch.Tensor,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Distillation by correlation (Huang, You, Wang, Qian and Xu, 2022, "DIST").

    Args:
        student: logits [N, C] or [N, L, C], classes last; of any float dtype, computed in float32
            at least. The samples of a batch are compared: some tens of them.
        teacher: logits of the same shape; taken as constants.
        beta: weight of the relation between classes.
        gamma: weight of the relation between samples.
        temperature: T; above 1 softer.

    Returns:
        A scalar.

    Raises:
        InvalidInput: shapes that differ, fewer than two classes, a setting out of range.
    """
    check_number("dist", "beta", beta, zero=True)
    check_number("dist", "gamma", gamma, zero=True)
    check_number("dist", "temperature", temperature)
    ours, theirs = rows("dist", student, teacher)
    q, p = (ours / temperature).softmax(-1), (theirs / temperature).softmax(-1)
    of_classes = 1 - _correlation(q, p, 1).mean()
    of_samples = 1 - _correlation(q, p, 0).mean()
    return (beta * of_classes + gamma * of_samples) * temperature**2


def _correlation(one: torch.Tensor, other: torch.Tensor, axis: int) -> torch.Tensor:
    one = one - one.mean(axis, keepdim=True)
    other = other - other.mean(axis, keepdim=True)
    lengths = [(x.square().sum(axis) + EPSILON).sqrt() for x in (one, other)]
    return (one * other).sum(axis) / (lengths[0] * lengths[1])


@dataclass(frozen=True)
class DIST:
    """The signal of `dist`."""

    beta: float = 1.0
    gamma: float = 1.0
    temperature: Setting = 1.0
    weight: Setting = 1.0
    name: ClassVar[str] = "dist"
    needs_labels: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_number("DIST", "beta", self.beta, zero=True)
        check_number("DIST", "gamma", self.gamma, zero=True)
        check_setting("DIST", "temperature", self.temperature)
        check_setting("DIST", "weight", self.weight, zero=True)

    def loss(
        self, student: torch.Tensor, teacher: torch.Tensor, target: Any, moment: Moment
    ) -> torch.Tensor:
        """`dist` at the temperature of the moment."""
        temperature = at(self.temperature, moment)
        return dist(student, teacher, beta=self.beta, gamma=self.gamma, temperature=temperature)

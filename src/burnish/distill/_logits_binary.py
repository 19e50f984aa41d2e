"""Distillation of yes-or-no outputs: a binary classifier, or many labels that do not exclude.

Each logit is a distribution of its own, (σ(z), 1 - σ(z)); a softmax across the labels would say
that they compete. The loss is T^2 times the KL divergence of the two Bernoulli distributions at
z/T, averaged over samples and labels as torch's binary cross-entropy is, so that the two keep their
proportion whatever the number of labels.

Left out: a weight for each label; the second half of Yang et al., distances between embeddings of
samples and of labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from burnish.distill._logits import outputs
from burnish.distill._setting import Setting, at, check_number, check_setting
from burnish.train import Moment


def binary_distillation_loss(
    student: torch.Tensor, teacher: torch.Tensor, *, temperature: float = 1.0
) -> torch.Tensor:
    """T^2 KL(Bernoulli(σ(teacher/T)) || Bernoulli(σ(student/T))), one versus all.

    Yang, Xie, Zong, Feng, Niu, Sugiyama and Huang, 2023, who sum over labels and have T = 1.

    Args:
        student: logits of any shape, as [N], [N, 1] or [N, labels]; computed in float32 at least.
        teacher: logits of the same shape; taken as constants.
        temperature: T; above 1 softer.

    Returns:
        A scalar: the mean over samples and labels.

    Raises:
        InvalidInput: shapes that differ, a temperature of 0 or less.
    """
    check_number("binary_distillation_loss", "temperature", temperature)
    ours, theirs = outputs("binary_distillation_loss", student, teacher)
    return bernoulli_kl(theirs / temperature, ours / temperature).mean() * temperature**2


def bernoulli_kl(of: torch.Tensor, against: torch.Tensor) -> torch.Tensor:
    """KL between Bernoulli distributions given by their log-odds, element by element."""
    yes = F.logsigmoid(of) - F.logsigmoid(against)
    no = F.logsigmoid(-of) - F.logsigmoid(-against)
    return of.sigmoid() * yes + (-of).sigmoid() * no


@dataclass(frozen=True)
class BinaryKD:
    """The signal of `binary_distillation_loss`."""

    temperature: Setting = 1.0
    weight: Setting = 1.0
    name: ClassVar[str] = "binary_kd"
    needs_labels: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_setting("BinaryKD", "temperature", self.temperature)
        check_setting("BinaryKD", "weight", self.weight, zero=True)

    def loss(
        self, student: torch.Tensor, teacher: torch.Tensor, target: Any, moment: Moment
    ) -> torch.Tensor:
        """`binary_distillation_loss` at the temperature of the moment."""
        return binary_distillation_loss(student, teacher, temperature=at(self.temperature, moment))

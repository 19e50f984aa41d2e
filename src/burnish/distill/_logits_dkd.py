"""Decoupled distillation: how sure of the target, and what else it looks like, weighed apart.

Hinton's loss is a sum of two: the KL of (target, everything else), and the KL among the other
classes times the teacher's probability of "everything else". A teacher that is sure of itself so
silences the second, which is where its knowledge of likeness lies. DKD gives each a weight of its
own:

    T^2 (alpha * KL(b_teacher || b_student) + beta * KL(p̂_teacher || p̂_student))

b is the pair (p_target, 1 - p_target), p̂ the softmax over the other classes alone. The published
code takes 1000 from the target's logit to be rid of it and the logarithm of a probability for b,
which fails for large logits; here the target's column is left out, and b is a Bernoulli
distribution with log-odds z_target/T - logsumexp(others/T).

Left out: the published warm-up of the weight, which is a `Schedule` on `weight`; taking the
teacher's own answer for the target where labels are missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from burnish.distill._logits import labels, rows
from burnish.distill._logits_binary import bernoulli_kl
from burnish.distill._outputs import NO_LABEL
from burnish.distill._setting import Setting, at, check_number, check_setting
from burnish.errors import InvalidInput
from burnish.train import Moment


def dkd(
    student: torch.Tensor,
    teacher: torch.Tensor,
    target: torch.Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> torch.Tensor:
    """Decoupled knowledge distillation (Zhao, Cui, Song, Qiu and Liang, 2022).

    Args:
        student: logits [N, C] or [N, L, C], classes last; of any float dtype, computed in float32
            at least.
        teacher: logits of the same shape; taken as constants.
        target: class indices [N] or [N, L]; -100 where a row has no label.
        alpha: weight of the target class.
        beta: weight of the others; the paper has 1 to 8, more where the teacher is surer.
        temperature: T; above 1 softer.

    Returns:
        A scalar: the mean over rows, those without a label at 0, so that a labelled row weighs the
        same in whatever batch it falls.

    Raises:
        InvalidInput: shapes that differ, fewer than three classes, a missing or wrong target, a
            setting out of range.
    """
    check_number("dkd", "alpha", alpha, zero=True)
    check_number("dkd", "beta", beta, zero=True)
    check_number("dkd", "temperature", temperature)
    ours, theirs = rows("dkd", student, teacher)
    if ours.shape[1] < 3:
        raise InvalidInput(
            "dkd: of two classes only one is left beside the target, and beta weighs nothing: use "
            "distillation_loss"
        )
    classes = labels("dkd", target, student)
    num, known = len(ours), classes != NO_LABEL
    ours, theirs, classes = ours[known], theirs[known], classes[known]
    student_odds, student_others = _decoupled(ours / temperature, classes)
    teacher_odds, teacher_others = _decoupled(theirs / temperature, classes)
    of_target = bernoulli_kl(teacher_odds, student_odds).sum()
    of_others = F.kl_div(student_others, teacher_others, reduction="sum", log_target=True)
    return (alpha * of_target + beta * of_others) / num * temperature**2


def _decoupled(logits: torch.Tensor, classes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The target's log-odds [rows], and log-probabilities among the others [rows, C - 1]."""
    target = classes.unsqueeze(1)
    columns = torch.arange(logits.shape[1] - 1, device=logits.device).expand(len(logits), -1)
    others = logits.gather(1, columns + (columns >= target))
    odds = logits.gather(1, target).squeeze(1) - others.logsumexp(1)
    return odds, F.log_softmax(others, -1)


@dataclass(frozen=True)
class DKD:
    """The signal of `dkd`; needs labels."""

    alpha: float = 1.0
    beta: float = 8.0
    temperature: Setting = 4.0
    weight: Setting = 1.0
    name: ClassVar[str] = "dkd"
    needs_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number("DKD", "alpha", self.alpha, zero=True)
        check_number("DKD", "beta", self.beta, zero=True)
        check_setting("DKD", "temperature", self.temperature)
        check_setting("DKD", "weight", self.weight, zero=True)

    def loss(
        self, student: torch.Tensor, teacher: torch.Tensor, target: Any, moment: Moment
    ) -> torch.Tensor:
        """`dkd` at the temperature of the moment."""
        temperature = at(self.temperature, moment)
        return dkd(
            student, teacher, target, alpha=self.alpha, beta=self.beta, temperature=temperature
        )

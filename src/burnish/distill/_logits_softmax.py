"""Three distances between the softened distributions of student and teacher.

Logits are divided by a temperature T before the softmax, so that the classes the teacher holds
unlikely count for something. With p the teacher's and q the student's distribution:

    distillation_loss   KL(p || q)                        the student must cover all that p covers
    reverse_kl          KL(q || p)                        the student must not go where p does not
    jensen_shannon      KL(p || m)/2 + KL(q || m)/2       between the two, and at most log 2;
                                                          m = (p + q)/2
all times T^2, because the gradient of a softened distance shrinks as 1/T^2: the weight beside the
loss on labels then means the same at every temperature. Each is summed over classes and averaged
over rows (`batchmean`).

All of it happens on log-probabilities, the mixture's by logaddexp: the logarithm of a softmax that
underflowed is minus infinity, and its gradient NaN even where the loss looks sound.

Left out: skewed mixtures and sums of the two directions: add two signals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from burnish.distill._logits import rows
from burnish.distill._setting import Setting, at, check_number, check_setting
from burnish.train import Moment


def distillation_loss(
    student: torch.Tensor, teacher: torch.Tensor, *, temperature: float = 4.0
) -> torch.Tensor:
    """T^2 KL(softmax(teacher/T) || softmax(student/T)) (Hinton, Vinyals and Dean, 2015).

    Args:
        student: logits [N, C] or [N, L, C], classes last; of any float dtype, computed in float32
            at least.
        teacher: logits of the same shape; taken as constants.
        temperature: T; above 1 softer.

    Returns:
        A scalar: the mean over rows.

    Raises:
        InvalidInput: shapes that differ, fewer than two classes, a temperature of 0 or less.
    """
    q, p = _softened("distillation_loss", student, teacher, temperature)
    return _kl(p, q) * temperature**2


def reverse_kl(
    student: torch.Tensor, teacher: torch.Tensor, *, temperature: float = 1.0
) -> torch.Tensor:
    """T^2 KL(softmax(student/T) || softmax(teacher/T)) (Gu, Dong, Wei and Huang, 2024).

    Arguments, result and errors as of `distillation_loss`.
    """
    q, p = _softened("reverse_kl", student, teacher, temperature)
    return _kl(q, p) * temperature**2


def jensen_shannon(
    student: torch.Tensor, teacher: torch.Tensor, *, temperature: float = 1.0
) -> torch.Tensor:
    """T^2 times the Jensen-Shannon divergence of the softened distributions (Lin, 1991).

    Arguments, result and errors as of `distillation_loss`.
    """
    q, p = _softened("jensen_shannon", student, teacher, temperature)
    mixture = torch.logaddexp(p, q) - math.log(2)
    return (_kl(p, mixture) + _kl(q, mixture)) / 2 * temperature**2


def _softened(
    who: str, student: torch.Tensor, teacher: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities [rows, C] of student and teacher."""
    check_number(who, "temperature", temperature)
    ours, theirs = rows(who, student, teacher)
    return F.log_softmax(ours / temperature, -1), F.log_softmax(theirs / temperature, -1)


def _kl(of: torch.Tensor, against: torch.Tensor) -> torch.Tensor:
    """KL(of || against) of log-probabilities [rows, C], the mean over rows."""
    return F.kl_div(against, of, reduction="batchmean", log_target=True)


@dataclass(frozen=True)
class KD:
    """The signal of `distillation_loss`."""

    temperature: Setting = 4.0
    weight: Setting = 1.0
    name: ClassVar[str] = "kd"
    needs_labels: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_setting("KD", "temperature", self.temperature)
        check_setting("KD", "weight", self.weight, zero=True)

    def loss(
        self, student: torch.Tensor, teacher: torch.Tensor, target: Any, moment: Moment
    ) -> torch.Tensor:
        """`distillation_loss` at the temperature of the moment."""
        return distillation_loss(student, teacher, temperature=at(self.temperature, moment))


@dataclass(frozen=True)
class ReverseKL:
    """The signal of `reverse_kl`."""

    temperature: Setting = 1.0
    weight: Setting = 1.0
    name: ClassVar[str] = "reverse_kl"
    needs_labels: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_setting("ReverseKL", "temperature", self.temperature)
        check_setting("ReverseKL", "weight", self.weight, zero=True)

    def loss(
        self, student: torch.Tensor, teacher: torch.Tensor, target: Any, moment: Moment
    ) -> torch.Tensor:
        """`reverse_kl` at the temperature of the moment."""
        return reverse_kl(student, teacher, temperature=at(self.temperature, moment))


@dataclass(frozen=True)
class JensenShannon:
    """The signal of `jensen_shannon`."""

    temperature: Setting = 1.0
    weight: Setting = 1.0
    name: ClassVar[str] = "jensen_shannon"
    needs_labels: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_setting("JensenShannon", "temperature", self.temperature)
        check_setting("JensenShannon", "weight", self.weight, zero=True)

    def loss(
        self, student: torch.Tensor, teacher: torch.Tensor, target: Any, moment: Moment
    ) -> torch.Tensor:
        """`jensen_shannon` at the temperature of the moment."""
        return jensen_shannon(student, teacher, temperature=at(self.temperature, moment))

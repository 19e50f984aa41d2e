"""Outputs compared as numbers: squared differences, of logits or of a regression's answers.

For logits, squared differences are what Hinton's loss tends to at high temperatures (half of them,
for logits of mean 0): every logit counts, the unlikely ones too, and there is no temperature to
choose.

For regression the teacher's answer is only as good as the teacher. *Teacher-bounded* (Chen, Choi,
Yu, Han and Chandraker, 2017): a sample counts only while the student is not better than the teacher
by more than a margin, and then it is drawn to the true value, not to the teacher's.

Left out: scaling outputs of different units against each other, which the model's own loss has to
settle as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from burnish.distill._logits import outputs
from burnish.distill._setting import Setting, check_number, check_setting
from burnish.errors import InvalidInput
from burnish.train import Moment


def mean_squared_logits(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The mean squared difference of outputs (Ba and Caruana, 2014, who halve and do not average).

    Args:
        student: outputs of any shape, samples first; computed in float32 at least.
        teacher: outputs of the same shape; taken as constants.

    Returns:
        A scalar: the mean over all elements.

    Raises:
        InvalidInput: shapes that differ.
    """
    return F.mse_loss(*outputs("mean_squared_logits", student, teacher))


def regression_distillation_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    target: torch.Tensor | None = None,
    *,
    margin: float | None = None,
) -> torch.Tensor:
    """Squared distance to the teacher; with a margin, to the target, bounded by the teacher.

    Args:
        student: answers of any shape, samples first; computed in float32 at least.
        teacher: answers of the same shape; taken as constants.
        target: true values of the same shape; with a margin only.
        margin: None: the mean squared distance to the teacher. A number: each sample's mean squared
            error, where it is above the teacher's less the margin, else 0.

    Returns:
        A scalar: the mean over samples.

    Raises:
        InvalidInput: shapes that differ, a margin without targets or targets without a margin, NaN
            among the targets, a negative margin.
    """
    who = "regression_distillation_loss"
    ours, theirs = outputs(who, student, teacher)
    if margin is None:
        if target is not None:
            raise InvalidInput(f"{who}: the target is read with margin=… only, as margin=0.0")
        return F.mse_loss(ours, theirs)
    check_number(who, "margin", margin, zero=True)
    truth = _truth(who, target, ours)
    of_student, of_teacher = (
        (answers - truth).square().reshape(len(truth), -1).mean(1) for answers in (ours, theirs)
    )
    behind = of_student + margin > of_teacher
    return torch.where(behind, of_student, 0.0).mean()


def _truth(who: str, target: Any, answers: torch.Tensor) -> torch.Tensor:
    if target is None:
        raise InvalidInput(
            f"{who}(margin=…) needs labels, and this batch has none: leave the margin out to "
            "follow the teacher alone"
        )
    if not isinstance(target, torch.Tensor) or target.shape != answers.shape:
        got = list(target.shape) if isinstance(target, torch.Tensor) else type(target).__name__
        raise InvalidInput(
            f"{who}: the target is {got}, and answers of shape {list(answers.shape)} need a tensor "
            "of that shape"
        )
    truth = target.to(answers.dtype)
    if bool(truth.isnan().any()):
        raise InvalidInput(f"{who}: the target holds NaN: leave those samples out")
    return truth


@dataclass(frozen=True)
class LogitMSE:
    """The signal of `mean_squared_logits`."""

    weight: Setting = 1.0
    name: ClassVar[str] = "logit_mse"
    needs_labels: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_setting("LogitMSE", "weight", self.weight, zero=True)

    def loss(
        self, student: torch.Tensor, teacher: torch.Tensor, target: Any, moment: Moment
    ) -> torch.Tensor:
        """`mean_squared_logits`."""
        return mean_squared_logits(student, teacher)


@dataclass(frozen=True)
class RegressionKD:
    """The signal of `regression_distillation_loss`; needs labels where it has a margin."""

    margin: float | None = None
    weight: Setting = 1.0
    name: ClassVar[str] = "regression_kd"

    def __post_init__(self) -> None:
        if self.margin is not None:
            check_number("RegressionKD", "margin", self.margin, zero=True)
        check_setting("RegressionKD", "weight", self.weight, zero=True)

    @property
    def needs_labels(self) -> bool:
        """Whether its loss reads the target."""
        return self.margin is not None

    def loss(
        self, student: torch.Tensor, teacher: torch.Tensor, target: Any, moment: Moment
    ) -> torch.Tensor:
        """`regression_distillation_loss`."""
        truth = target if self.needs_labels else None
        return regression_distillation_loss(student, teacher, truth, margin=self.margin)

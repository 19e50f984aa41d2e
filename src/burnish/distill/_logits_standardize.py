"""Logit standardization: z-scores before the softmax, so that only the pattern has to match.

Sharing one temperature makes the student match the range and spread of the teacher's logits, which
a small network can only at a price. With each row's logits brought to mean 0 and standard deviation
1, in student and teacher alike, what is left to learn is which class stands how far above which.
The temperature then counts in standard deviations (the authors take 2) and the weight has to be
larger (they take 9), because z-scores are smaller than logits.

It is what layer normalisation does, and is computed by it: its `EPSILON` in the variance keeps a
row of equal logits (a head that starts at zero) at 0 with a small gradient, where the 1e-7 that the
authors' code adds to the deviation gives one of 100,000.

Left out: nothing of the method. The authors' code takes the sample's standard deviation (C - 1),
the paper the population's (C); this is the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from burnish.distill._logits import LogitSignal, checked
from burnish.distill._setting import Setting
from burnish.train import Moment

EPSILON = 1e-5


def standardize(logits: torch.Tensor) -> torch.Tensor:
    """Each row's z-scores (Sun, Ren, Li, Wang and Cao, 2024).

    Hand both the student's and the teacher's to a loss:
    `distillation_loss(standardize(student), standardize(teacher), temperature=2.0)`.

    Args:
        logits: [..., C], classes last; of any float dtype, computed in float32 at least.

    Returns:
        The same shape, in the dtype of the computation.

    Raises:
        InvalidInput: no tensor of floats.
    """
    return _standardized("student", logits)


def _standardized(role: str, logits: torch.Tensor) -> torch.Tensor:
    values = checked("standardize", role, logits)
    return F.layer_norm(values, values.shape[-1:], eps=EPSILON)


@dataclass(frozen=True)
class Standardized:
    """A signal that is handed z-scores in place of logits: `Standardized(KD(2.0, weight=9.0))`."""

    signal: LogitSignal

    @property
    def name(self) -> str:
        """The signal's, with a prefix."""
        return f"standardized_{self.signal.name}"

    @property
    def weight(self) -> Setting:
        """The signal's."""
        return self.signal.weight

    @property
    def needs_labels(self) -> bool:
        """As the signal."""
        return self.signal.needs_labels

    def loss(
        self, student: torch.Tensor, teacher: torch.Tensor, target: Any, moment: Moment
    ) -> torch.Tensor:
        """The signal's, of z-scores."""
        ours, theirs = _standardized("student", student), _standardized("teacher", teacher)
        return self.signal.loss(ours, theirs, target, moment)

"""Losses are computed in float32 at least, whatever precision the networks run in.

Squares, exponentials and sums over a batch leave float16's range, and an epsilon of 1e-8 is zero in
it. So a loss widens what it is given (float64 stays), and switches autocast off, which would narrow
its matrix products again. Gradients come back in the dtype of the input. The teacher's side never
takes part in the backward pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

Loss = TypeVar("Loss", bound=Callable[..., torch.Tensor])


def wide(loss: Loss) -> Loss:
    """`loss(student, teacher, …)` in float32 at least, outside autocast, the teacher detached."""

    @functools.wraps(loss)
    def run(
        student: torch.Tensor, teacher: torch.Tensor, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        with torch.autocast(student.device.type, enabled=False):
            return loss(widened(student), widened(teacher.detach()), *args, **kwargs)

    return cast(Loss, run)


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """Float32, or float64 as it is."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()

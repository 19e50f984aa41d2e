"""Half precision: losses and gradients stay finite and near float64's, whatever the logits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from burnish.distill import (
    binary_distillation_loss,
    dist,
    distillation_loss,
    dkd,
    jensen_shannon,
    mean_squared_logits,
    regression_distillation_loss,
    reverse_kl,
    standardize,
)

ROWS, CLASSES = 8, 10
LABELS = torch.arange(ROWS)

LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]] = {
    "distillation_loss": lambda s, t, temperature: distillation_loss(s, t, temperature=temperature),
    "reverse_kl": lambda s, t, temperature: reverse_kl(s, t, temperature=temperature),
    "jensen_shannon": lambda s, t, temperature: jensen_shannon(s, t, temperature=temperature),
    "dkd": lambda s, t, temperature: dkd(s, t, LABELS, temperature=temperature),
    "dist": lambda s, t, temperature: dist(s, t, temperature=temperature),
    "binary": lambda s, t, temperature: binary_distillation_loss(s, t, temperature=temperature),
    "standardized": lambda s, t, temperature: distillation_loss(
        standardize(s), standardize(t), temperature=temperature
    ),
    "mean_squared_logits": lambda s, t, temperature: mean_squared_logits(s, t),
    "regression": lambda s, t, temperature: regression_distillation_loss(
        s, t, torch.zeros(ROWS, CLASSES), margin=0.0
    ),
}


def logits() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Pairs of [8, 10]: ordinary ones, huge ones, and those where something vanishes."""
    generator = torch.Generator().manual_seed(2)
    one = torch.randn(ROWS, CLASSES, generator=generator)
    other = torch.randn(ROWS, CLASSES, generator=generator)
    huge = one.sign() * 1e4
    return {
        "ordinary": (one * 3, other * 3),
        "spread to 1e4": (one.clamp(-1, 1) * 1e4, other.clamp(-1, 1) * 1e4),
        "all at 1e4 or -1e4": (huge, other.sign() * 1e4),
        "opposite": (huge, -huge),
        "the same": (huge, huge),
        "a student of zeros": (torch.zeros_like(one), other * 3),
        "a teacher of zeros": (one * 3, torch.zeros_like(one)),
        "a sure teacher": (one, torch.eye(ROWS, CLASSES) * 2e4 - 1e4),
        "a sure student": (torch.eye(ROWS, CLASSES) * 2e4 - 1e4, other),
    }


PAIRS = logits()


def gradient(loss: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    (found,) = torch.autograd.grad(loss, student)
    return found


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_are_finite(name: str, dtype: torch.dtype) -> None:
    for pair, (student, teacher) in PAIRS.items():
        for temperature in (1.0, 2.0, 4.0, 20.0, 100.0):
            where = f"{pair} at T={temperature}"
            ours = student.to(dtype).requires_grad_()
            loss = LOSSES[name](ours, teacher.to(dtype), temperature)
            found = gradient(loss, ours)
            assert loss.dtype == torch.float32, where
            assert found.dtype == dtype, where
            assert loss.isfinite(), where
            assert found.isfinite().all(), where


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_they_are_those_of_float64(name: str, dtype: torch.dtype) -> None:
    """On the logits that half precision holds; the gradient to half precision's rounding."""
    for pair in ("ordinary", "a sure teacher"):
        student, teacher = (tensor.to(dtype) for tensor in PAIRS[pair])
        for temperature in (1.0, 4.0, 20.0):
            ours, exact = student.clone().requires_grad_(), student.double().requires_grad_()
            loss = LOSSES[name](ours, teacher, temperature)
            truth = LOSSES[name](exact, teacher.double(), temperature)
            torch.testing.assert_close(loss.double(), truth, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(
                gradient(loss, ours).double(), gradient(truth, exact), rtol=1e-2, atol=1e-4
            )


@pytest.mark.parametrize("name", LOSSES)
def test_autocast_does_not_reach_inside(name: str) -> None:
    student, teacher = PAIRS["ordinary"]
    plain = LOSSES[name](student, teacher, 4.0)
    with torch.autocast("cpu", torch.bfloat16):
        inside = LOSSES[name](student, teacher, 4.0)
    assert inside.dtype == torch.float32
    assert torch.equal(plain, inside)


def test_what_a_softmax_in_half_precision_loses() -> None:
    """The reason for float32: the written-out loss is not finite where ours is."""
    student, teacher = (tensor.half() for tensor in PAIRS["spread to 1e4"])
    q, p = student.softmax(-1), teacher.softmax(-1)
    assert not (p * (p.log() - q.log())).sum().isfinite()
    assert distillation_loss(student, teacher, temperature=1.0).isfinite()

"""Contrastive representation distillation: tell the teacher's feature of this sample from others'.

Both features are projected to 128 numbers of length 1. A critic, a sigmoid of their inner product,
should say "same sample" for the pair of one sample and "two samples" for the student of one with
the teacher of another, and the other way round. Others are the rest of the batch and a memory: a
queue of the embeddings of batches before, without gradient.

The paper's critic is h = e / (e + N/M) with e = exp(inner product / temperature), N negatives and M
samples in the data set. Its authors' code divides e by a constant Z, M times the mean of e over the
first batch, which cancels M: h = e / (e + N·mean). So does this, and M need not be known.

Left out: the paper's memory with one place for each sample of the data set (a loss is not told
which samples a batch holds), and choosing negatives from other classes by their labels. A memory
larger than the data set holds a sample's own embedding of an epoch ago among its negatives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from burnish.distill._adapter import check_samples, vectors
from burnish.distill._features import OneLayer
from burnish.distill._relations import unit
from burnish.distill._setting import Setting, check_number
from burnish.distill._wide import widened
from burnish.errors import InvalidInput

WIDTH = 128  # of the space both are compared in, as in the paper


def crd_loss(
    positive: torch.Tensor,
    negative: torch.Tensor,
    *,
    log_noise: torch.Tensor | float,
    temperature: float = 0.07,
) -> torch.Tensor:
    """Noise-contrastive loss of a critic on inner products (Tian, Krishnan and Isola, 2020).

    Args:
        positive: of each sample's two embeddings, both of length 1, [N].
        negative: of its embedding with those of other samples, [N, K].
        log_noise: logarithm of what the critic's e = exp(product / temperature) is held against: K
            over the number of samples in the data set in the paper, K times the mean of e in its
            authors' code.
        temperature: above 0; 0.07 as in the paper.

    Returns:
        A scalar, in float32 at least: minus log h(positive) + the sum over K of
        log(1 − h(negative)), averaged over samples.
    """
    positive = widened(positive) / temperature - log_noise
    negative = widened(negative) / temperature - log_noise
    return -(F.logsigmoid(positive) + F.logsigmoid(-negative).sum(dim=1)).mean()


class Compared(NamedTuple):
    """Inner products between embeddings, and the mean of exp(product / temperature)."""

    positive: torch.Tensor  # [N]
    of_student: torch.Tensor  # [N, K]: each student's with the teacher's of other samples
    of_teacher: torch.Tensor  # [N, K]: each teacher's with the student's of other samples
    log_mean: torch.Tensor


class Contrast(nn.Module):
    """Projects both features, compares them, and remembers their embeddings while it trains."""

    student_memory: torch.Tensor
    teacher_memory: torch.Tensor
    num_written: torch.Tensor
    log_mean: torch.Tensor

    def __init__(self, student: int, teacher: int, memory: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.student = nn.Linear(student, WIDTH)
        self.teacher = nn.Linear(teacher, WIDTH)
        self.register_buffer("student_memory", torch.zeros(memory, WIDTH))
        self.register_buffer("teacher_memory", torch.zeros(memory, WIDTH))
        self.register_buffer("num_written", torch.zeros((), dtype=torch.int64))
        self.register_buffer("log_mean", torch.zeros(()))

    def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> Compared:
        """Compare the vectors [N, C] and [N, C'] of one batch with one another and the memory."""
        mine, other = unit(self.student(student)), unit(self.teacher(teacher))
        known = min(int(self.num_written), len(self.student_memory))
        if not known:
            check_samples(student, teacher, at_least=2)
        pairs = mine @ other.T
        log_mean = self.log_mean.clone() if known else self._log_mean(pairs)
        # Cloned: the memory is written before the backward pass reads it.
        compared = Compared(
            pairs.diagonal(),
            torch.cat([_others(pairs), mine @ self.teacher_memory[:known].clone().T], dim=1),
            torch.cat([_others(pairs.T), other @ self.student_memory[:known].clone().T], dim=1),
            log_mean,
        )
        if self.training:
            self._remember(mine, other, log_mean)
        return compared

    def _log_mean(self, pairs: torch.Tensor) -> torch.Tensor:
        total = (pairs.detach() / self.temperature).flatten().logsumexp(dim=0)
        return total - math.log(pairs.numel())

    @torch.no_grad()
    def _remember(
        self, student: torch.Tensor, teacher: torch.Tensor, log_mean: torch.Tensor
    ) -> None:
        size = len(self.student_memory)
        student, teacher = student[-size:], teacher[-size:]
        count = torch.arange(len(student), device=student.device)
        places = (self.num_written + count) % size
        self.student_memory[places] = student.to(self.student_memory.dtype)
        self.teacher_memory[places] = teacher.to(self.teacher_memory.dtype)
        self.num_written += len(student)
        self.log_mean.copy_(log_mean)


@dataclass(frozen=True)
class CRD(OneLayer):
    """Learn features in which the student's of a sample is found by the teacher's, and back.

    Args:
        tap: the two layers, usually the last before the classifier; maps and sequences are
            averaged over their positions.
        weight: 0.8 as in the paper.
        memory: embeddings of each network that are kept as negatives, beside the rest of the batch.
        temperature: of the critic.

    Raises:
        InvalidInput: a memory below 1, a temperature that is not above 0.
    """

    kind = "crd"

    weight: Setting = 0.8
    memory: int = 4096
    temperature: float = 0.07

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.memory, int) or self.memory < 1:
            raise InvalidInput(f"CRD(memory={self.memory!r}): a number of embeddings, 1 or more")
        check_number("CRD", "temperature", self.temperature)

    def _build(self, student: torch.Size, teacher: torch.Size) -> nn.Module | None:
        return Contrast(student[1], teacher[1], self.memory, self.temperature)

    def _loss(
        self, student: torch.Tensor, teacher: torch.Tensor, adapter: nn.Module | None
    ) -> torch.Tensor:
        assert adapter is not None
        check_samples(student, teacher)
        compared: Compared = adapter(vectors(student), vectors(teacher))
        log_noise = compared.log_mean + math.log(compared.of_student.shape[1])
        losses = [
            crd_loss(compared.positive, negative, log_noise=log_noise, temperature=self.temperature)
            for negative in (compared.of_student, compared.of_teacher)
        ]
        return losses[0] + losses[1]


def _others(pairs: torch.Tensor) -> torch.Tensor:
    """A square matrix without its diagonal, [N, N - 1]."""
    num = len(pairs)
    others = ~torch.eye(num, dtype=torch.bool, device=pairs.device)
    return pairs[others].view(num, num - 1)

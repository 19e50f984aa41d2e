"""Relations: how the samples of a batch lie to one another should be the same in both networks.

Similarity-preserving compares the matrix of inner products between samples, PKT the probabilities
that one sample is the neighbour of another, RKD their distances and the angles they span. None
looks at single channels, so the two widths may differ and nothing has to be learned. All are
averages over samples, pairs or triples, where papers write sums: a weight then means the same for
every batch size.

A feature that is zero, or a batch of equal features, has no direction or distance: it counts as
similarity or distance 0 and takes no gradient.

Left out: relations to samples outside the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from burnish.distill._adapter import check_samples, vectors
from burnish.distill._features import OneLayer
from burnish.distill._setting import Setting, check_number
from burnish.distill._wide import wide
from burnish.errors import InvalidInput

# Below it a probability's logarithm says only how float32 rounds.
SMALLEST = 1e-7


@wide
def similarity_preserving_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Squared difference of the samples' normalised Gram matrices (Tung and Mori, 2019).

    Args:
        student: the student's feature, [N, …], flattened per sample.
        teacher: the teacher's, [N, …], any other shape; takes no gradient.

    Returns:
        A scalar, in float32 at least: the squared Frobenius norm, over N².

    Raises:
        InvalidInput: two batch sizes, or fewer than 2 samples.
    """
    check_samples(student, teacher, at_least=2)
    return F.mse_loss(_similarity(student), _similarity(teacher))


@wide
def pkt_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Divergence of the probabilities to be neighbours (Passalis and Tefas, 2018).

    With the cosine similarity k = (cos + 1) / 2, the probability of j given i is k(i, j) over the
    sum of k(i, l) for all l other than i; the loss is the Kullback-Leibler divergence of the
    student's from the teacher's.

    Args:
        student: the student's vectors, [N, C].
        teacher: the teacher's, [N, C']; takes no gradient.

    Returns:
        A scalar, in float32 at least: the mean over the N samples.

    Raises:
        InvalidInput: two batch sizes, or fewer than 2 samples.
    """
    check_samples(student, teacher, at_least=2)
    wanted, got = _neighbours(teacher), _neighbours(student)
    return (wanted * (wanted.log() - got.log())).sum() / len(student)


@wide
def rkd_distance_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Huber loss between pairs' distances, each in units of their mean (Park et al., 2019).

    Args:
        student: the student's vectors, [N, C].
        teacher: the teacher's, [N, C']; takes no gradient.

    Returns:
        A scalar, in float32 at least: the mean over all pairs of two samples.

    Raises:
        InvalidInput: two batch sizes, or fewer than 2 samples.
    """
    check_samples(student, teacher, at_least=2)
    return F.smooth_l1_loss(_distances(student), _distances(teacher))


@wide
def rkd_angle_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Huber loss between the cosines of the angles that triples span (Park et al., 2019).

    Takes memory for N² vectors.

    Args:
        student: the student's vectors, [N, C].
        teacher: the teacher's, [N, C']; takes no gradient.

    Returns:
        A scalar, in float32 at least: the mean over all triples of three samples.

    Raises:
        InvalidInput: two batch sizes, or fewer than 3 samples.
    """
    check_samples(student, teacher, at_least=3)
    num = len(student)
    # Where two of the three are one sample, both have the same cosine (0 or 1): nothing is added.
    total = F.smooth_l1_loss(_angles(student), _angles(teacher), reduction="sum")
    return total / (num * (num - 1) * (num - 2))


@dataclass(frozen=True)
class SimilarityPreserving(OneLayer):
    """Samples that are alike to the teacher should be alike to the student.

    Args:
        tap: the two layers; a map is flattened, so what lies where counts.
        weight: 3000 as in the paper.
    """

    kind = "similarity"

    weight: Setting = 3000.0

    def _loss(
        self, student: torch.Tensor, teacher: torch.Tensor, adapter: nn.Module | None
    ) -> torch.Tensor:
        return similarity_preserving_loss(student, teacher)


@dataclass(frozen=True)
class PKT(OneLayer):
    """Match the probability that one sample is the neighbour of another.

    Args:
        tap: the two layers, usually the last before the classifier; maps and sequences are
            averaged over their positions.
        weight: comparisons on CIFAR-100 use 30,000 on the mean over pairs of a batch of 64, which
            is about 470 on the mean over samples.
    """

    kind = "pkt"

    weight: Setting = 470.0

    def _loss(
        self, student: torch.Tensor, teacher: torch.Tensor, adapter: nn.Module | None
    ) -> torch.Tensor:
        return pkt_loss(vectors(student), vectors(teacher))


@dataclass(frozen=True)
class RKD(OneLayer):
    """Match the distances between pairs of samples and the angles between triples.

    Args:
        tap: the two layers, usually the last before the classifier; maps and sequences are
            averaged over their positions.
        weight: of the two together.
        distance: weight of the distances, 25 as in the paper. A batch needs 2 samples.
        angle: weight of the angles, 50 as in the paper. A batch needs 3 samples.

    Raises:
        InvalidInput: both weights are 0.
    """

    kind = "rkd"

    distance: float = 25.0
    angle: float = 50.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("RKD", "distance", self.distance, zero=True)
        check_number("RKD", "angle", self.angle, zero=True)
        if not (self.distance or self.angle):
            raise InvalidInput("RKD(distance=0, angle=0): nothing is left of it; weigh one")

    def _loss(
        self, student: torch.Tensor, teacher: torch.Tensor, adapter: nn.Module | None
    ) -> torch.Tensor:
        student, teacher = vectors(student), vectors(teacher)
        loss = student.new_zeros(())
        if self.distance:
            loss = loss + self.distance * rkd_distance_loss(student, teacher)
        if self.angle:
            loss = loss + self.angle * rkd_angle_loss(student, teacher)
        return loss


def unit(rows: torch.Tensor) -> torch.Tensor:
    """Vectors along the last axis at length 1; a zero stays zero."""
    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows / _or_infinite(length)


def _or_infinite(divisor: torch.Tensor) -> torch.Tensor:
    """So that 0 / 0 is 0, and its gradient too."""
    return divisor.masked_fill(divisor == 0, torch.inf)


def _similarity(feature: torch.Tensor) -> torch.Tensor:
    rows = feature.flatten(1)
    return unit(rows @ rows.T)


def _neighbours(rows: torch.Tensor) -> torch.Tensor:
    """[N, N - 1] probabilities of the other samples, row by row."""
    rows = unit(rows)
    num = len(rows)
    others = ~torch.eye(num, dtype=torch.bool, device=rows.device)
    kernel = ((rows @ rows.T)[others].view(num, num - 1) + 1) / 2
    kernel = kernel.clamp_min(SMALLEST)
    return kernel / kernel.sum(dim=1, keepdim=True)


def _distances(rows: torch.Tensor) -> torch.Tensor:
    """[N (N - 1) / 2], one for each pair, in units of their mean."""
    distances = torch.pdist(rows)
    return distances / _or_infinite(distances.mean())


def _angles(rows: torch.Tensor) -> torch.Tensor:
    """[N, N, N] cosines: of the angle at the first sample between the other two."""
    towards = unit(rows.unsqueeze(0) - rows.unsqueeze(1))
    return towards @ towards.transpose(1, 2)

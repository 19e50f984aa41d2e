"""Each loss on features against its paper's formula, written out sum by sum in float64.

The restatements loop over samples, pairs and triples with scalars, so that autograd gives their
gradients too. Where a paper sums and we average, the test says by what.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch

from burnish.distill._attention import attention_transfer_loss
from burnish.distill._contrast import CRD, crd_loss
from burnish.distill._hints import hint_loss
from burnish.distill._relations import (
    pkt_loss,
    rkd_angle_loss,
    rkd_distance_loss,
    similarity_preserving_loss,
)
from burnish.distill._tap import Tap
from burnish.distill._variational import vid_loss
from burnish.train import Moment

Tensor = torch.Tensor
Loss = Callable[[Tensor, Tensor], Tensor]
NUM, WIDTH = 4, 3
NOW = Moment(progress=0.0, epoch=0, step=0, batch=0, draw=0)


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def zero() -> Tensor:
    return torch.zeros((), dtype=torch.float64)


def length(vector: Tensor) -> Tensor:
    total = zero()
    for value in vector.flatten():
        total = total + value * value
    return total.sqrt()


def inner(one: Tensor, other: Tensor) -> Tensor:
    total = zero()
    for a, b in zip(one.flatten(), other.flatten(), strict=True):
        total = total + a * b
    return total


def huber(x: Tensor, y: Tensor) -> Tensor:
    gap = (x - y).abs()
    return gap * gap / 2 if gap <= 1 else gap - 0.5


def paper_hint(student: Tensor, teacher: Tensor) -> Tensor:
    """Half the sum of squares; the mean is 2 / (number of elements) of it."""
    half = zero()
    for s, t in zip(student.flatten(), teacher.flatten(), strict=True):
        half = half + (s - t) ** 2 / 2
    return half * 2 / student.numel()


def paper_attention(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared norm of the difference of Q / |Q|, over samples and positions."""

    def maps(feature: Tensor) -> Tensor:
        rows = []
        for sample in feature:
            places = itertools.product(range(sample.shape[1]), range(sample.shape[2]))
            q = torch.stack([inner(sample[:, i, j], sample[:, i, j]) for i, j in places])
            rows.append(q / length(q))
        return torch.stack(rows)

    gaps = maps(student) - maps(teacher)
    return sum((length(gap) ** 2 for gap in gaps), zero()) / gaps.numel()


def paper_similarity(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared Frobenius norm of the difference of row-normalised Gram matrices, over b²."""

    def gram(feature: Tensor) -> Tensor:
        rows = []
        for one in feature:
            row = torch.stack([inner(one, other) for other in feature])
            rows.append(row / length(row))
        return torch.stack(rows)

    return length(gram(teacher) - gram(student)) ** 2 / len(student) ** 2


def paper_pkt(student: Tensor, teacher: Tensor) -> Tensor:
    """Sum over i and j ≠ i of p(j|i) log(p(j|i) / q(j|i)), over the number of i."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (inner(a, b) / (length(a) * length(b)) + 1) / 2

    def probability(feature: Tensor, j: int, i: int) -> Tensor:
        others = [k for k in range(len(feature)) if k != i]
        return kernel(feature[i], feature[j]) / sum(
            (kernel(feature[i], feature[k]) for k in others), zero()
        )

    total = zero()
    for i, j in itertools.permutations(range(len(student)), 2):
        p, q = probability(teacher, j, i), probability(student, j, i)
        total = total + p * torch.log(p / q)
    return total / len(student)


def paper_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber of pairs' distances over their mean; the mean over pairs."""
    pairs = list(itertools.permutations(range(len(student)), 2))

    def psi(feature: Tensor) -> list[Tensor]:
        distances = [length(feature[i] - feature[j]) for i, j in pairs]
        mean = sum(distances, zero()) / len(pairs)
        return [distance / mean for distance in distances]

    both = zip(psi(student), psi(teacher), strict=True)
    return sum((huber(s, t) for s, t in both), zero()) / len(pairs)


def paper_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber of the cosines of the angles i-j-k; the mean over triples of three samples."""
    triples = list(itertools.permutations(range(len(student)), 3))

    def psi(feature: Tensor, i: int, j: int, k: int) -> Tensor:
        one, other = feature[i] - feature[j], feature[k] - feature[j]
        return inner(one, other) / (length(one) * length(other))

    terms = [huber(psi(student, *triple), psi(teacher, *triple)) for triple in triples]
    return sum(terms, zero()) / len(triples)


MAPS = (NUM, WIDTH, 2, 3)
VECTORS = (NUM, WIDTH)
LOSSES: list[tuple[Loss, Loss, tuple[int, ...], tuple[int, ...]]] = [
    (hint_loss, paper_hint, MAPS, MAPS),
    (attention_transfer_loss, paper_attention, MAPS, (NUM, 5, 2, 3)),
    (similarity_preserving_loss, paper_similarity, MAPS, (NUM, 5, 4, 4)),
    (pkt_loss, paper_pkt, VECTORS, (NUM, 5)),
    (rkd_distance_loss, paper_distance, VECTORS, (NUM, 5)),
    (rkd_angle_loss, paper_angle, VECTORS, (NUM, 5)),
]
NAMES = [loss.__name__ for loss, *_ in LOSSES]


@pytest.mark.parametrize(("loss", "paper", "mine", "other"), LOSSES, ids=NAMES)
def test_value_and_gradient_are_those_of_the_paper(
    loss: Loss, paper: Loss, mine: tuple[int, ...], other: tuple[int, ...]
) -> None:
    teacher = random(*other, seed=1) * 3
    one = (random(*mine) * 2).requires_grad_()
    two = one.detach().clone().requires_grad_()
    got, wanted = loss(one, teacher), paper(two, teacher)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)
    assert got.item() > 1e-3, "the two features agree, so that nothing was compared"
    got.backward()
    wanted.backward()
    torch.testing.assert_close(one.grad, two.grad, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize(("loss", "paper", "mine", "other"), LOSSES, ids=NAMES)
def test_gradients_are_those_of_differences(
    loss: Loss, paper: Loss, mine: tuple[int, ...], other: tuple[int, ...]
) -> None:
    teacher = random(*other, seed=1).requires_grad_()
    student = random(*mine).requires_grad_()
    assert torch.autograd.gradcheck(lambda one: loss(one, teacher.detach()), (student,))
    loss(student, teacher).backward()
    assert teacher.grad is None, "the teacher took a gradient"


@pytest.mark.parametrize(("loss", "paper", "mine", "other"), LOSSES, ids=NAMES)
def test_it_is_zero_where_both_agree_and_nowhere_below(
    loss: Loss, paper: Loss, mine: tuple[int, ...], other: tuple[int, ...]
) -> None:
    feature = random(*mine).requires_grad_()
    agreed = loss(feature, feature.detach().clone())
    assert agreed.item() == pytest.approx(0, abs=1e-15)
    agreed.backward()
    assert feature.grad is not None
    assert feature.grad.abs().max() < 1e-7
    assert all(loss(random(*mine, seed=seed), feature) > 0 for seed in range(1, 5))


@pytest.mark.parametrize(("loss", "paper", "mine", "other"), LOSSES[1:], ids=NAMES[1:])
def test_a_factor_on_a_feature_does_not_matter(
    loss: Loss, paper: Loss, mine: tuple[int, ...], other: tuple[int, ...]
) -> None:
    student, teacher = random(*mine), random(*other, seed=1)
    torch.testing.assert_close(loss(student * 1e3, teacher), loss(student, teacher))
    torch.testing.assert_close(loss(student, teacher * 1e-3), loss(student, teacher))


def test_common_mistakes_give_other_values() -> None:
    """Neighbours that include the sample itself, columns for rows, the first mean for each pair."""
    student, teacher = random(NUM, WIDTH), random(NUM, 5, seed=1)

    def with_itself(feature: Tensor) -> Tensor:
        rows = feature / torch.linalg.vector_norm(feature, dim=1, keepdim=True)
        kernel: Tensor = (rows @ rows.T + 1) / 2
        return kernel / kernel.sum(dim=1, keepdim=True)

    p, q = with_itself(teacher), with_itself(student)
    mistaken = (p * (p / q).log()).sum() / NUM
    assert abs(mistaken - pkt_loss(student, teacher)) > 1e-3

    def by_matrix(feature: Tensor) -> Tensor:
        gram: Tensor = feature @ feature.T
        length: Tensor = torch.linalg.matrix_norm(gram)
        return gram / length

    mistaken = (by_matrix(teacher) - by_matrix(student)).square().mean()
    assert abs(mistaken - similarity_preserving_loss(student, teacher)) > 1e-3

    raw = torch.nn.functional.smooth_l1_loss(torch.pdist(student), torch.pdist(teacher))
    assert abs(raw - rkd_distance_loss(student, teacher)) > 1e-3


def test_variational_is_the_gaussian_s_negative_log_likelihood() -> None:
    """Sum of log σ + (t − μ)² / 2σ², over the number of elements; gradients of all three."""
    mean = random(2, 3, 2, 2).requires_grad_()
    variance = (random(3, seed=1).abs() + 0.5).requires_grad_()
    teacher = random(2, 3, 2, 2, seed=2)
    total = zero()
    for n, c, h, w in itertools.product(range(2), range(3), range(2), range(2)):
        sigma = variance[c].sqrt()
        total = total + sigma.log() + (teacher[n, c, h, w] - mean[n, c, h, w]) ** 2 / (2 * sigma**2)
    torch.testing.assert_close(vid_loss(mean, teacher, variance), total / mean.numel())
    gaussian = torch.distributions.Normal(mean, variance.sqrt().view(1, 3, 1, 1))
    likelihood = gaussian.log_prob(teacher).mean() + math.log(2 * math.pi) / 2
    torch.testing.assert_close(vid_loss(mean, teacher, variance), -likelihood)
    assert torch.autograd.gradcheck(lambda m, v: vid_loss(m, teacher, v), (mean, variance))
    vectors = vid_loss(mean[:, :, 0, 0], teacher[:, :, 0, 0], variance)
    assert vectors != vid_loss(mean, teacher, variance)


def paper_crd(positive: Tensor, negative: Tensor, temperature: float, noise: float) -> Tensor:
    """Minus log h(T, S⁺) and the sum of log(1 − h(T, S⁻)), h = e / (e + N/M)."""

    def h(product: Tensor) -> Tensor:
        e = torch.exp(product / temperature)
        return e / (e + noise)

    total = zero()
    for i in range(len(positive)):
        total = total - torch.log(h(positive[i]))
        for k in range(negative.shape[1]):
            total = total - torch.log(1 - h(negative[i, k]))
    return total / len(positive)


def test_contrast_is_the_paper_s_critic() -> None:
    positive, negative = random(3).tanh().requires_grad_(), random(3, 5, seed=1).tanh()
    negative.requires_grad_()
    noise = 5 / 50  # N negatives over M samples in the data set
    for temperature in (0.07, 0.5):
        settings = {"temperature": temperature, "log_noise": math.log(noise)}
        wanted = paper_crd(positive, negative, temperature, noise)
        torch.testing.assert_close(
            crd_loss(positive, negative, **settings), wanted, rtol=1e-9, atol=0
        )
    assert torch.autograd.gradcheck(
        lambda p, n: crd_loss(p, n, temperature=0.5, log_noise=math.log(noise)),
        (positive, negative),
    )


def test_contrast_with_its_memory_over_three_batches() -> None:
    """By hand: projections of length 1, the queue of 5, the constant from the first batch."""
    torch.manual_seed(3)
    signal = CRD(Tap("any"), memory=5, temperature=0.3)
    adapter = signal.build([torch.Size([3, 4])], [torch.Size([3, 6])])
    assert adapter is not None
    adapter.double()
    state = adapter.state_dict()
    constant = math.nan
    queue: list[tuple[Tensor, Tensor]] = []
    for step, size in enumerate((3, 4, 2)):
        student, teacher = random(size, 4, seed=step), random(size, 6, seed=step + 10)
        pairs = []
        for s, t in zip(student, teacher, strict=True):
            one = state["student.weight"] @ s + state["student.bias"]
            other = state["teacher.weight"] @ t + state["teacher.bias"]
            pairs.append((one / length(one), other / length(other)))
        if step == 0:
            scores = [
                math.exp(inner(a, b) / 0.3) for (a, _), (_, b) in itertools.product(pairs, pairs)
            ]
            constant = sum(scores) / len(scores)
        positive = torch.stack([inner(a, b) for a, b in pairs])
        wanted = zero()
        for side in (0, 1):
            negative = torch.stack(
                [
                    torch.stack(
                        [
                            inner(pair[side], other[1 - side])
                            for other in [*pairs[:i], *pairs[i + 1 :], *queue]
                        ]
                    )
                    for i, pair in enumerate(pairs)
                ]
            )
            noise = negative.shape[1] * constant
            wanted = wanted + paper_crd(positive, negative, 0.3, noise)
        got = signal.loss([student], [teacher], adapter, None, NOW)
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=0)
        queue = [*queue, *pairs][-5:]


def test_contrast_s_gradients_reach_both_projections_and_no_memory() -> None:
    torch.manual_seed(3)
    signal = CRD(Tap("any"), memory=5, temperature=0.5)
    adapter = signal.build([torch.Size([3, 4])], [torch.Size([3, 6])])
    assert adapter is not None
    adapter.double()
    signal.loss([random(3, 4)], [random(3, 6, seed=1)], adapter, None, NOW)
    adapter.eval()  # the memory stands still, so that differences can be taken
    teacher = random(3, 6, seed=3)
    student = random(3, 4, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda one: signal.loss([one], [teacher], adapter, None, NOW), (student,)
    )
    signal.loss([student], [teacher], adapter, None, NOW).backward()
    for name, parameter in adapter.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name

"""The papers' formulas for losses on logits, sample by sample and class by class, in plain floats.

Slow and obvious on purpose, and without a line of torch: rows are lists, [N][C], and every
probability is written out. `EPSILON`s of ours have no place here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Row = Sequence[float]
Rows = Sequence[Row]


def softmax(logits: Row, temperature: float) -> list[float]:
    largest = max(logits)
    powers = [math.exp((z - largest) / temperature) for z in logits]
    return [power / sum(powers) for power in powers]


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def kl(p: Row, q: Row) -> float:
    return sum(pi * math.log(pi / qi) for pi, qi in zip(p, q, strict=True))


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def hinton(student: Rows, teacher: Rows, temperature: float) -> float:
    """Hinton et al. (2015): T^2 sum_i p_i log(p_i / q_i), averaged over the batch."""
    return temperature**2 * mean(
        [
            kl(softmax(t, temperature), softmax(s, temperature))
            for s, t in zip(student, teacher, strict=True)
        ]
    )


def reverse(student: Rows, teacher: Rows, temperature: float) -> float:
    return hinton(teacher, student, temperature)


def jensen_shannon(student: Rows, teacher: Rows, temperature: float) -> float:
    """Lin (1991): half the KL of each to their mean."""
    total = []
    for s, t in zip(student, teacher, strict=True):
        q, p = softmax(s, temperature), softmax(t, temperature)
        m = [(qi + pi) / 2 for qi, pi in zip(q, p, strict=True)]
        total.append((kl(p, m) + kl(q, m)) / 2)
    return temperature**2 * mean(total)


def dkd(
    student: Rows,
    teacher: Rows,
    target: Sequence[int],
    alpha: float,
    beta: float,
    temperature: float,
) -> float:
    """Zhao et al. (2022), equation 7 with the weights of equation 8."""
    total = []
    for s, t, label in zip(student, teacher, target, strict=True):
        q, p = softmax(s, temperature), softmax(t, temperature)
        b_student, b_teacher = [q[label], 1 - q[label]], [p[label], 1 - p[label]]
        others = [i for i in range(len(q)) if i != label]
        hat_q = [q[i] / sum(q[j] for j in others) for i in others]
        hat_p = [p[i] / sum(p[j] for j in others) for i in others]
        total.append(alpha * kl(b_teacher, b_student) + beta * kl(hat_p, hat_q))
    return temperature**2 * mean(total)


def pearson(one: Row, other: Row) -> float:
    centre, middle = mean(one), mean(other)
    covariance = sum((a - centre) * (b - middle) for a, b in zip(one, other, strict=True))
    spread = sum((a - centre) ** 2 for a in one) * sum((b - middle) ** 2 for b in other)
    return covariance / math.sqrt(spread)


def dist(student: Rows, teacher: Rows, beta: float, gamma: float, temperature: float) -> float:
    """Huang et al. (2022), equations 7 to 10."""
    q = [softmax(row, temperature) for row in student]
    p = [softmax(row, temperature) for row in teacher]
    inter = mean([1 - pearson(a, b) for a, b in zip(q, p, strict=True)])
    columns = zip(zip(*q, strict=True), zip(*p, strict=True), strict=True)
    intra = mean([1 - pearson(a, b) for a, b in columns])
    return temperature**2 * (beta * inter + gamma * intra)


def standardized(logits: Rows) -> list[list[float]]:
    """Sun et al. (2024), algorithm 1."""
    result = []
    for row in logits:
        centre = mean(row)
        deviation = math.sqrt(mean([(z - centre) ** 2 for z in row]))
        result.append([(z - centre) / deviation for z in row])
    return result


def ba_and_caruana(student: Rows, teacher: Rows) -> float:
    """Ba and Caruana (2014), equation 1: half the squared distance, averaged over the batch."""
    return mean(
        [
            sum((g - z) ** 2 for g, z in zip(s, t, strict=True)) / 2
            for s, t in zip(student, teacher, strict=True)
        ]
    )


def one_versus_all(student: Rows, teacher: Rows, temperature: float) -> float:
    """Yang et al. (2023), equation 2, with a temperature and the mean over labels."""
    total = []
    for s, t in zip(student, teacher, strict=True):
        for z, y in zip(s, t, strict=True):
            q, p = sigmoid(z / temperature), sigmoid(y / temperature)
            total.append(kl([p, 1 - p], [q, 1 - q]))
    return temperature**2 * mean(total)


def teacher_bounded(student: Rows, teacher: Rows, target: Rows, margin: float) -> float:
    """Chen et al. (2017), equation 8, with the mean over a sample's outputs in place of the sum."""
    total = []
    for s, t, y in zip(student, teacher, target, strict=True):
        of_student = mean([(a - b) ** 2 for a, b in zip(s, y, strict=True)])
        of_teacher = mean([(a - b) ** 2 for a, b in zip(t, y, strict=True)])
        total.append(of_student if of_student + margin > of_teacher else 0.0)
    return mean(total)

"""An interval for a median that assumes nothing about how the noise is distributed.

Times on a shared machine drift, jump and have long tails; a t interval or a bootstrap of the mean
is at the mercy of one spike. The interval between two order statistics covers the median of
whatever distribution the n values come from with a probability that is exactly binomial (Thompson,
1936; see David and Nagaraja, Order Statistics, 2003, section 7.1): the k-th smallest and k-th
largest value miss it only if fewer than k of n fair coins fall on one side. We take the largest k
that keeps the stated confidence, so the true one is at or above it.

It asks that the values be independent with one median. Ratios of times taken in the same round are
that to a good approximation: what changes slowly divides out, and the order within a round is drawn
anew each time, so that what changes fast falls on either side alike. A simulation in the tests
(drift, spikes, heavy tails) finds the coverage at or above what is stated.
Left out: interpolating between order statistics, which is a little narrower and not exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def rounds_needed(confidence: float) -> int:
    """The smallest n for which the interval from smallest to largest has this confidence."""
    return math.ceil(math.log2(2 / (1 - confidence)))


def most_outside(n: int, confidence: float) -> int:
    """The largest k with P(Binomial(n, 1/2) <= k) <= (1 - confidence) / 2: so many on each side."""
    k, tail = -1, 0
    while (tail := tail + math.comb(n, k + 1)) / 2**n <= (1 - confidence) / 2:
        k += 1
    return k


def median_interval(values: Sequence[float], confidence: float) -> tuple[float, float, float]:
    """Median, low and high. Needs `rounds_needed(confidence)` values."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    assert len(ordered) >= rounds_needed(confidence)
    k = most_outside(len(ordered), confidence)
    return float(np.median(ordered)), float(ordered[k]), float(ordered[-1 - k])

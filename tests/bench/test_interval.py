"""The interval for a ratio covers the truth as often as it says, whatever the noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from burnish.bench import Race, Timing
from burnish.bench._interval import median_interval, most_outside, rounds_needed
from tests.bench.made_up import round_medians

TRIALS = 1000
Array = np.ndarray[Any, Any]
Noise = Callable[[np.random.Generator, int], Array]

NOISES: dict[str, Noise] = {
    "log-normal": lambda random, n: np.exp(0.05 * random.standard_normal(n)),
    "heavy tails": lambda random, n: np.exp(0.05 * random.standard_t(1.5, n)),
    "spikes": lambda random, n: (
        np.where(random.random(n) < 0.2, 1 + random.pareto(0.8, n), 1.0)
        * np.exp(0.01 * random.standard_normal(n))
    ),
    "one-sided": lambda random, n: 1 + random.exponential(0.1, n),
}


def a_race(a: Array, b: Array, confidence: float) -> Race:
    timings = tuple(
        Timing(label, *(1.0,) * 6, 1, 1, len(a), None, "made up") for label in ("a", "b")
    )
    return Race(timings, {"a": tuple(a), "b": tuple(b)}, confidence)


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("rounds", [8, 30])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_ratio_is_covered_as_often_as_stated(name: str, rounds: int, confidence: float) -> None:
    random = np.random.default_rng(rounds)
    covered = 0
    for _ in range(TRIALS):
        truth = float(np.exp(random.uniform(-1, 1)))
        a, b = round_medians(truth, rounds, random, lambda n: NOISES[name](random, n))
        ratio = a_race(a, b, confidence).ratio("a", "b")
        covered += ratio.low <= truth <= ratio.high
    # No more misses than luck explains once in a thousand.
    assert covered >= stats.binom.ppf(0.001, TRIALS, confidence)


def test_the_interval_of_an_unpaired_ratio_would_be_far_wider() -> None:
    """Why rounds are paired: on a drifting machine absolute times say little."""
    random = np.random.default_rng(0)
    quiet = NOISES["log-normal"]
    a, b = round_medians(1.1, 30, random, lambda n: quiet(random, n))
    paired = a_race(a, b, 0.95).ratio("a", "b")
    assert paired.low > 1
    low, high = (
        median_interval(a.tolist(), 0.95)[1] / median_interval(b.tolist(), 0.95)[2],
        (median_interval(a.tolist(), 0.95)[2] / median_interval(b.tolist(), 0.95)[1]),
    )
    assert np.log(high / low) > 3 * np.log(paired.high / paired.low)


@pytest.mark.parametrize("n", [6, 8, 9, 25, 100])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95])
def test_the_order_statistics_are_the_tightest_that_suffice(n: int, confidence: float) -> None:
    values = np.arange(n, dtype=float)
    median, low, high = median_interval(values.tolist(), confidence)
    k = int(low)
    assert median == pytest.approx((n - 1) / 2)
    assert high == n - 1 - k
    missed = 2 * stats.binom.cdf(k, n, 0.5)
    assert missed <= 1 - confidence + 1e-12
    assert 2 * stats.binom.cdf(k + 1, n, 0.5) > 1 - confidence


@pytest.mark.parametrize(("confidence", "rounds"), [(0.5, 2), (0.95, 6), (0.99, 8), (0.999, 11)])
def test_rounds_needed(confidence: float, rounds: int) -> None:
    assert rounds_needed(confidence) == rounds
    assert 2 * 0.5**rounds <= 1 - confidence + 1e-12


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95, 0.999])
def test_the_tail_is_the_binomials(confidence: float) -> None:
    """Scipy's, tried one by one."""
    allowed = (1 - confidence) / 2
    for n in (*range(rounds_needed(confidence), 40), 200, 500):
        k = most_outside(n, confidence)
        assert stats.binom.cdf(k, n, 0.5) <= allowed * (1 + 1e-12)
        assert stats.binom.cdf(k + 1, n, 0.5) > allowed * (1 - 1e-12)

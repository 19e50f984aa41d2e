"""The interval for paired proportions against published figures, brute force and its properties."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binom, multinomial

from burnish.metrics import verdict
from burnish.metrics._paired import (
    p_value,
    paired_interval,
    restricted_losses,
    score,
    tango_low,
    upper_tail,
)

tables = st.integers(1, 300).flatmap(
    lambda n: st.integers(0, n).flatmap(
        lambda gains: st.tuples(st.just(n), st.just(gains), st.integers(0, n - gains))
    )
)
relaxed = settings(max_examples=60, deadline=None)


def published(n: int, gains: int, losses: int, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    return tango_low(n, gains, losses, tail), -tango_low(n, losses, gains, tail)


@pytest.mark.parametrize(
    ("n", "gains", "losses", "confidence", "limits"),
    [
        # Airway reactivity of 21 children: Fagerland, Lydersen and Laake (2014), table V.
        (21, 1, 7, 0.95, (-0.517, -0.026)),
        # Contact lenses, 44 patients: Tango (1998).
        (44, 0, 1, 0.90, (-0.096, 0.037)),
    ],
)
def test_published_limits(n, gains, losses, confidence, limits):
    assert published(n, gains, losses, confidence) == pytest.approx(limits, abs=5e-4)


@pytest.mark.parametrize("n", [1, 10, 73, 5000])
def test_closed_form_without_discordant_pairs(n):
    z2 = 1.959963984540054**2
    assert published(n, 0, 0, 0.95) == pytest.approx((-z2 / (n + z2), z2 / (n + z2)), abs=1e-9)
    clopper_pearson = 1 - 0.025 ** (1 / n)
    assert paired_interval(n, 0, 0, 0.95) == pytest.approx((-clopper_pearson, clopper_pearson))


def test_score_at_zero_is_mcnemar():
    assert score(100, 15, 5, 0.0) == pytest.approx((15 - 5) / np.sqrt(15 + 5))


@pytest.mark.parametrize(
    ("n", "gains", "losses"),
    [(20, 0, 0), (20, 3, 0), (20, 0, 5), (50, 7, 11), (9, 9, 0), (9, 0, 9)],
)
@pytest.mark.parametrize("difference", [-0.7, -0.2, -0.01, 0.0, 0.03, 0.4])
def test_restricted_estimate_maximises_the_likelihood(n, gains, losses, difference):
    def negative(rate: float) -> float:
        chances = np.array([rate + difference, rate, 1 - 2 * rate - difference])
        counts = np.array([gains, losses, n - gains - losses])
        return -float((counts * np.log(np.maximum(chances, 1e-300))).sum())

    low, high = max(0.0, -difference), (1 - difference) / 2
    found = minimize_scalar(
        negative, bounds=(low, high), method="bounded", options={"xatol": 1e-10}
    )
    rate = restricted_losses(n, gains, losses, difference)
    assert low <= rate <= high
    assert negative(rate) <= min(found.fun, negative(low), negative(high)) + 1e-6


@pytest.mark.parametrize(
    ("n", "gain", "loss"), [(1, 0.2, 0.3), (12, 0.0, 0.1), (12, 0.3, 0.3), (30, 0.5, 0.5)]
)
def test_tail_against_the_multinomial_summed_cell_by_cell(n, gain, loss):
    cells = [(a, b) for a, b in itertools.product(range(n + 1), repeat=2) if a + b <= n]
    chances = multinomial(n, [gain, loss, 1 - gain - loss])
    weight = {cell: chances.pmf([*cell, n - sum(cell)]) for cell in cells}
    for threshold in range(-n, n + 2):
        expected = sum(w for (a, b), w in weight.items() if a - b >= threshold)
        assert upper_tail(n, gain, loss, threshold) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n", [500, 5000, 1_000_000])
def test_tail_without_losses_is_binomial_at_any_size(n):
    for threshold in (0, 1, int(0.01 * n), int(0.012 * n) + 5, n):
        expected = binom.sf(threshold - 1, n, 0.01)
        assert upper_tail(n, 0.01, 0.0, threshold) == pytest.approx(expected, abs=1e-9)


@given(tables)
@relaxed
def test_interval_holds_the_estimate_and_swaps_with_the_pair(table):
    n, gains, losses = table
    low, high = paired_interval(n, gains, losses, 0.95)
    assert -1 <= low <= (gains - losses) / n <= high <= 1
    assert low < high
    assert paired_interval(n, losses, gains, 0.95) == pytest.approx((-high, -low), abs=1e-9)


@given(tables, st.floats(0.6, 0.98), st.floats(0.001, 0.019))
@relaxed
def test_interval_widens_with_confidence(table, confidence, more):
    n, gains, losses = table
    low, high = paired_interval(n, gains, losses, confidence)
    wider_low, wider_high = paired_interval(n, gains, losses, confidence + more)
    assert wider_low <= low + 1e-9
    assert wider_high >= high - 1e-9


@given(tables.filter(lambda table: table[2] > 0))
@relaxed
def test_one_loss_less_moves_both_limits_up(table):
    n, gains, losses = table
    low, high = paired_interval(n, gains, losses, 0.95)
    better_low, better_high = paired_interval(n, gains, losses - 1, 0.95)
    assert better_low >= low - 1e-9
    assert better_high >= high - 1e-9


@given(tables, st.floats(-0.6, 0.6))
@relaxed
def test_the_interval_is_the_differences_that_the_test_does_not_refute(table, difference):
    n, gains, losses = table
    low, high = paired_interval(n, gains, losses, 0.95)
    refuted_below = p_value(n, gains, losses, difference) < 0.025
    refuted_above = p_value(n, losses, gains, -difference) < 0.025
    if abs(difference - low) > 1e-8:
        assert refuted_below == (difference < low)
    if abs(difference - high) > 1e-8:
        assert refuted_above == (difference > high)


def test_all_pairs_discordant():
    assert paired_interval(40, 40, 0, 0.95)[1] == 1
    assert paired_interval(40, 0, 40, 0.95)[0] == -1
    low, high = paired_interval(40, 20, 20, 0.95)
    assert low == pytest.approx(-high)
    assert 0.2 < high < 0.4


def test_verdict_counts_the_pairs():
    baseline = np.array([1] * 60 + [0] * 40)
    candidate = baseline.copy()
    candidate[:7] = 0
    candidate[60:63] = 1
    answer = verdict(baseline, candidate, max_drop=0.01)
    assert (answer.low, answer.high) == paired_interval(100, 3, 7, 0.95)
    assert answer.difference == pytest.approx(-0.04)

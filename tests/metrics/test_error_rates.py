"""The stated error rates are true: summed exactly for 0/1 scores, simulated for the rest.

`benchmarks/verdict_error_rates.py` does the same at many more points; this runs at the hardest.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.verdict_error_rates import (
    CONTINUOUS,
    binary_rates,
    exact_tail,
    group_rates,
    mean_rates,
    normal_tail,
    set_rates,
)
from burnish.metrics import verdict

STATED = 0.025
# Few discordant pairs and many: correlated models and models that merely have similar accuracy.
GAINS = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)


def at_most_stated(rate: float, replicates: int) -> bool:
    return rate <= STATED + 3 * math.sqrt(STATED * (1 - STATED) / replicates)


@pytest.mark.parametrize("n", [50, 100, 200, 500, 1000, 5000])
@pytest.mark.parametrize("margin", [0.002, 0.01, 0.05])
def test_binary_at_the_margin_is_never_wrong_more_often_than_stated(n, margin):
    # An exact sum: there is no tolerance.
    for holds, fails in binary_rates(n, margin, GAINS):
        assert holds <= STATED
        assert fails <= STATED


@pytest.mark.parametrize("confidence", [0.6, 0.8, 0.9, 0.99])
@pytest.mark.parametrize("n", [50, 200, 1000])
def test_binary_at_other_confidences(n, confidence):
    for holds, fails in binary_rates(n, 0.02, (0.0, 0.002, 0.01, 0.05, 0.2), confidence):
        assert holds <= (1 - confidence) / 2
        assert fails <= (1 - confidence) / 2


@pytest.mark.parametrize("n", [50, 200, 1000])
def test_binary_beyond_the_margin_is_wrong_less_and_right_more(n):
    at, beyond = (binary_rates(n, 0.01, (0.005, 0.02), excess=excess) for excess in (0.0, 0.05))
    within = binary_rates(n, 0.06, (0.005, 0.02), excess=-0.05)
    for (holds, fails), (less, more), (kept, wrong) in zip(at, beyond, within, strict=True):
        assert less <= holds
        assert more > fails
        assert kept > holds
        assert wrong <= STATED


def test_binary_verdicts_are_reached_when_there_is_enough_data():
    (holds, _), *_ = binary_rates(5000, 0.01, (0.01,), excess=-0.01)
    (_, fails), *_ = binary_rates(5000, 0.01, (0.01,), excess=0.02)
    assert holds > 0.99
    assert fails > 0.99


def test_why_the_tail_is_exact():
    # The margin of two losses in 200 with hardly any gains: the normal tail doubles the error.
    normal = max(rates[1] for rates in binary_rates(200, 0.02, GAINS, rule=normal_tail))
    exact = max(rates[1] for rates in binary_rates(200, 0.02, GAINS, rule=exact_tail))
    assert normal > 1.8 * STATED
    assert exact <= STATED


def test_simulated_verdicts_agree_with_the_exact_sum():
    rng = np.random.default_rng(5)
    n, margin, replicates = 100, 0.05, 800
    counts = rng.multinomial(n, [0.02, 0.02 + margin, 0.7, 0.21 - margin], size=replicates)
    decided: list[str] = []
    for gains, losses, both, _ in counts:
        baseline, candidate = np.zeros((2, n))
        baseline[: losses + both] = 1
        candidate[losses : losses + both + gains] = 1
        decided.append(verdict(baseline, candidate, max_drop=margin).state)
    (holds, fails), *_ = binary_rates(n, margin, (0.02,))
    for state, rate in (("holds", holds), ("fails", fails)):
        spread = np.sqrt(rate * (1 - rate) / replicates)
        assert abs(decided.count(state) / replicates - rate) <= 4 * spread


@pytest.mark.parametrize(("accuracy", "drop"), [(0.5, 0.1), (0.9, 0.02)])
def test_a_relative_drop_of_binary_scores_is_honest_with_the_baseline_taken_as_fixed(
    accuracy, drop
):
    rng = np.random.default_rng(7)
    n, gain, replicates = 200, 0.02, 700
    loss = gain + drop * accuracy
    cells = [gain, loss, accuracy - loss, 1 - accuracy - gain]
    states = []
    for gains, losses, both, _ in rng.multinomial(n, cells, size=replicates):
        baseline, candidate = np.zeros((2, n))
        baseline[: losses + both] = 1
        candidate[losses : losses + both + gains] = 1
        states.append(verdict(baseline, candidate, max_drop=drop, relative=True).state)
    assert at_most_stated(states.count("holds") / replicates, replicates)
    assert at_most_stated(states.count("fails") / replicates, replicates)


@pytest.mark.parametrize("name", sorted(CONTINUOUS))
@pytest.mark.parametrize(("n", "replicates"), [(50, 3000), (200, 3000), (500, 2000), (5000, 400)])
def test_continuous_at_the_margin(name, n, replicates):
    draw, mean = CONTINUOUS[name]
    holds, fails = mean_rates(draw, mean, n, replicates)
    assert at_most_stated(holds, replicates)
    assert at_most_stated(fails, replicates)


def test_a_relative_drop_of_continuous_scores_carries_the_baselines_noise():
    rng = np.random.default_rng(3)
    replicates, states = 2000, []
    for _ in range(replicates):
        baseline = rng.gamma(2.0, 0.5, 400)  # mean 1, and noisier than the difference
        candidate = 0.95 * baseline + rng.normal(0, 0.02, 400)
        answer = verdict(baseline, candidate, max_drop=0.05, relative=True, kind="continuous")
        states.append(answer.state)
    assert at_most_stated(states.count("holds") / replicates, replicates)
    assert at_most_stated(states.count("fails") / replicates, replicates)


def test_rare_losses_that_were_not_seen_are_not_forgotten():
    # A t interval over the same draws says "holds" wrongly several times as often as stated.
    rng = np.random.default_rng(0)
    draw, mean = CONTINUOUS["1 % lose 0.5"]
    fooled = 0
    for _ in range(2000):
        baseline, candidate = draw(rng, 200)
        d = candidate - baseline
        fooled += d.mean() - 1.972 * d.std(ddof=1) / np.sqrt(200) > mean
    assert fooled / 2000 > 4 * STATED
    assert at_most_stated(mean_rates(draw, mean, 200, 2000)[0], 2000)


@pytest.mark.parametrize("people", [30, 100])
def test_groups_are_honest_where_their_samples_are_not_independent(people):
    replicates = 500
    rates = group_rates(people, windows=20, replicates=replicates)
    assert at_most_stated(rates["holds"], replicates)
    assert at_most_stated(rates["fails"], replicates)
    # The same samples taken as independent: what `groups` is for.
    assert rates["holds ungrouped"] > 2 * STATED


def test_a_figure_for_the_whole_set_is_honest():
    holds, fails = set_rates(100, replicates=150)
    assert at_most_stated(holds, 150)
    assert at_most_stated(fails, 150)

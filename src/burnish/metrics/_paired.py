"""The difference of two paired proportions, with an interval that is honest at few discordances.

Of n samples, `gains` are right for the candidate only and `losses` for the baseline only; the
difference is (gains - losses) / n. Tango (1998) tests a difference D by its score statistic, with
the nuisance parameter (the rate of losses) at its maximum-likelihood value *restricted to D*, a
root of a quadratic. The interval holds every D that the test does not reject.

Tango reads the statistic against the normal curve. We keep his restricted estimate and read
gains - losses against its **exact distribution at that estimate** instead (an estimated p-value:
Lloyd, 2008). The reason is a count: summing the multinomial exactly over margins from 0.002 to 0.2,
n from 20 to 5,000 and discordances from none to more than half, the normal tail says "fails"
wrongly up to 2.4 times as often as stated, and "holds" up to 1.35 times. The exact tail was never
wrong more often than stated at confidences of 0.9 and more: at 95 % the worst was 2.50 % for
"holds" (n = 1,000) and 2.42 % for "fails". In a random search single points reached 1.02 times the
stated rate at 0.8, and 1.07 times at 0.6 (`benchmarks/verdict_error_rates.py`). It costs width: at
n = 50 the worst error is 0.8 of the stated one. With no discordance the bound is Clopper-Pearson's.

The exact distribution of a sum of n steps in {-1, 0, 1} is one inverse FFT of its characteristic
function over the range that has any weight, so a verdict takes about a millisecond at any n.

Left out: guaranteed tests that maximise over the nuisance parameter. They cost minutes at n = 5,000
and the numbers above show nothing left to gain in honesty.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri


def restricted_losses(n: int, gains: int, losses: int, difference: float) -> float:
    """The likeliest rate of losses when the rate of gains is `difference` higher (Tango, 1998)."""
    half = (gains + losses - (2 * n - gains + losses) * difference) / (4 * n)
    constant = -losses * difference * (1 - difference) / (2 * n)
    rate = half + math.sqrt(max(half * half - constant, 0.0))
    return min(max(rate, 0.0, -difference), (1 - difference) / 2)


def score(n: int, gains: int, losses: int, difference: float) -> float:
    """Tango's statistic: standard deviations between the observed difference and `difference`."""
    rate = restricted_losses(n, gains, losses, difference)
    variance = n * (2 * rate + difference * (1 - difference))
    distance = gains - losses - n * difference
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def tango_low(n: int, gains: int, losses: int, tail: float) -> float:
    """The lower limit as published, against the normal curve; where the search for ours starts."""
    observed = (gains - losses) / n
    if losses == n:
        return -1.0
    z = -float(ndtri(tail))
    return float(brentq(lambda d: score(n, gains, losses, d) - z, -1.0, observed, xtol=1e-12))


def upper_tail(n: int, gain: float, loss: float, threshold: int) -> float:
    """P(gains - losses >= threshold) among n samples with the given rates of gain and loss."""
    mean, variance = n * (gain - loss), n * (gain + loss - (gain - loss) ** 2)
    # Bernstein's inequality: what lies further out than this weighs less than rounding errors.
    reach = min(12 * math.sqrt(max(variance, 0.0)) + 40, n + 1)
    length = 1 << math.ceil(math.log2(2 * reach + 2))
    first = max(-n, math.floor(mean) - length // 2)
    if threshold <= first:
        return 1.0
    step = np.exp(-2j * np.pi / length * np.arange(length // 2 + 1))
    spectrum = (gain * step + loss * step.conj() + max(0.0, 1 - gain - loss)) ** n
    weights = np.fft.irfft(spectrum, length)
    last = min(n, first + length - 1)
    above = weights[np.arange(threshold, last + 1) % length].sum()
    return float(min(max(above, 0.0), 1.0))


def p_value(n: int, gains: int, losses: int, difference: float) -> float:
    """How likely gains - losses this large are when the true difference is `difference`."""
    rate = restricted_losses(n, gains, losses, difference)
    return upper_tail(n, max(rate + difference, 0.0), rate, gains - losses)


def _low(n: int, gains: int, losses: int, tail: float) -> float:
    observed = (gains - losses) / n
    if losses == n:
        return -1.0
    near = tango_low(n, gains, losses, tail)
    step = max(0.1 * (observed - near), 0.1 / n)
    far = near - step
    while far > -1 and p_value(n, gains, losses, far) >= tail:
        step *= 2
        far -= step
    return float(
        brentq(lambda d: p_value(n, gains, losses, d) - tail, max(far, -1.0), observed, xtol=1e-10)
    )


def paired_interval(n: int, gains: int, losses: int, confidence: float) -> tuple[float, float]:
    """Limits of the difference of paired proportions, in [-1, 1], each wrong (1-confidence)/2."""
    tail = (1 - confidence) / 2
    return _low(n, gains, losses, tail), -_low(n, losses, gains, tail)

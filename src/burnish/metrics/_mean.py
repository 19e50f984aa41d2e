"""An interval for the mean of paired differences that is honest when they are skewed or rare.

The t interval is right for differences that look normal, and only then: when one sample in a
hundred loses half its score and the rest do not move, a t interval over 200 samples says "holds"
wrongly 14 % of the time instead of 2.5 %, because the loss was seen once or never. Two terms mend
it, and both vanish as n grows:

- **Jumps that were seen.** Toward each side the variance is taken to grow with the distance, as it
  does for rare events (Wilson's score interval, 1927, with half a jump for continuity), a jump
  being the third absolute moment of the differences on that side over their second moment. For
  events of one size it is that size, for normal differences 0.8 standard deviations.
- **Jumps that were not seen.** With confidence 1 - tail, at most a share 1 - tail^(1/n) of all
  samples is of a sort that none of the n belongs to. Each of them is granted the whole range of
  the scores seen. So identical scores give the same bound as identical 0/1 scores do, and never
  [0, 0].

No method can do without the second assumption: for unbounded scores no interval for a mean is
honest (Bahadur and Savage, 1956). Where losses are heavier-tailed than a lognormal of sigma 1, ours
is not either (`docs/methods/verdict.md` has the numbers).

Left out: the BCa bootstrap (Efron, 1987). It mends what skewness does to t where the sample shows
the skewness, but cannot see a loss that the sample does not hold: in the case above it was wrong as
often as t, at a thousand times the cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit


@dataclass(frozen=True)
class Spread:
    """All of the differences that their interval depends on, besides how many there are."""

    deviation: float
    jump_down: float
    jump_up: float
    span: float

    @classmethod
    def of(cls, differences: NDArray[np.float64], span: float) -> Spread:
        """From the differences of the units [n] and the range of the units' scores."""
        residuals = differences - differences.mean()
        squares = float((residuals**2).sum())
        cubes = np.abs(residuals) ** 3
        down, up = float(cubes[residuals < 0].sum()), float(cubes[residuals > 0].sum())
        # Rounding in the mean of equal differences leaves residuals of 1e-17: cubes may underflow.
        has_spread = squares > 0
        return cls(
            deviation=math.sqrt(squares / (len(differences) - 1)),
            jump_down=down / squares if has_spread else 0.0,
            jump_up=up / squares if has_spread else 0.0,
            span=span,
        )

    def reach(self, n: float, tail: float, *, down: bool) -> float:
        """How far the limit lies from the mean of n units; `tail` is its chance of being wrong."""
        t = -float(stdtrit(n - 1, tail))
        jump = (self.jump_down if down else self.jump_up) / n
        noise = math.hypot(t * self.deviation / math.sqrt(n), t * t / 2 * jump)
        seen = (t * t + 1) / 2 * jump + noise
        unseen = -math.expm1(math.log(tail) / n) * self.span
        return max(seen, unseen)

    def needed(self, n: int, distance: float, tail: float, *, down: bool, most: int) -> int | None:
        """The smallest number of units, above n, whose limit lies nearer than `distance`."""
        few, many = n, 2 * n
        while self.reach(many, tail, down=down) >= distance:
            few, many = many, 2 * many
            if few > most:
                return None
        while many - few > 1:
            middle = (few + many) // 2
            if self.reach(middle, tail, down=down) < distance:
                many = middle
            else:
                few = middle
        return many

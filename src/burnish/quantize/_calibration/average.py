"""The exponentially moving average of each sample's extremes, as a sketch that merges.

An average that is updated sample by sample, m <- m + c (x - m) from m = x_1, is a weighted sum:
m_n = (1-c)^n x_1 + sum of c (1-c)^(n-i) x_i. Kept as x_1, n and that sum it merges exactly: the sum
of what came first shrinks by (1-c)^(number of what came later). Being of samples and not of
batches, it does not depend on how the data were cut; being a moving average, it does depend on
their order, and merging is appending.

The observer of Jacob et al., 2018, whose unit is a batch of training; the constant 0.01 is that of
PyTorch's.

Left out: other constants.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONSTANT = 0.01


@dataclass(frozen=True)
class Average:
    """The moving averages of the least and the greatest value of `num` samples."""

    num: int
    first: tuple[float, float]
    weighted: tuple[float, float]

    @classmethod
    def of(cls, low: float, high: float) -> Average:
        """That of one sample."""
        return cls(1, (low, high), (CONSTANT * low, CONSTANT * high))

    @property
    def low(self) -> float:
        """The average of the least values."""
        return self._end(0)

    @property
    def high(self) -> float:
        """The average of the greatest values."""
        return self._end(1)

    def merged(self, later: Average) -> Average:
        """That of these samples and then of the later ones."""
        decay = (1 - CONSTANT) ** later.num
        low, high = (
            decay * mine + theirs
            for mine, theirs in zip(self.weighted, later.weighted, strict=True)
        )
        return Average(self.num + later.num, self.first, (low, high))

    def united(self, other: Average) -> Average:
        """One range for two values of the same samples: the wider of each end."""
        return Average.of(min(self.low, other.low), max(self.high, other.high))

    def _end(self, index: int) -> float:
        return self.weighted[index] + (1 - CONSTANT) ** self.num * self.first[index]


def averages(lows: NDArray[np.float64], highs: NDArray[np.float64]) -> list[Average]:
    """The averages of each channel from the extremes of its samples, [samples, channels]."""
    num = len(lows)
    weights = CONSTANT * (1 - CONSTANT) ** np.arange(num - 1, -1, -1.0)
    low, high = weights @ lows, weights @ highs
    return [
        Average(num, (float(lows[0, c]), float(highs[0, c])), (float(low[c]), float(high[c])))
        for c in range(lows.shape[1])
    ]

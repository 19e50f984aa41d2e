"""The range that keeps a distribution's shape: least Kullback-Leibler divergence.

For each of some 64 limits t: the reference P is the histogram within [-t, t], with all that lies
outside added to the outermost bins; Q is what the grid on that range makes of the histogram
within: the mass of each of its levels, spread evenly over the bins of P that round to it. Q is made
of what lies inside alone, so that saturating shows as a difference. The limit whose Q loses least
information about P wins, sum of P log(P / Q).

After Migacz, 2017 (TensorRT), as it and onnxruntime do it, with three differences. The levels are
those of the grid that will be used, 255 steps from the least to the greatest value, where they
merge whole bins into 128 levels whatever the format. The bin at zero is cut to the size of its
neighbour: zero is exact in every grid, and a ReLU's spike there would otherwise drown what the
limits differ in. Limits are a geometric series from 128 bins to all (at most 4,096), where they try
each.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from burnish.quantize._calibration.observe import Histogram

NUM_LIMITS = 64
NOTHING = 1e-4  # the count of a bin that Q leaves empty and P does not


def entropy_ends(hist: Histogram, levels: int, symmetric: bool) -> tuple[float, float]:
    """The ends of the range with the least divergence; the widest of those that are equal.

    `levels` steps go from one end to the other; symmetric ends are -t and t whatever was seen.
    """
    counts = _without_spike(hist.counts)
    found = limits(hist, levels)
    seen = (-math.inf, math.inf) if symmetric else (hist.low, hist.high)
    divergences = [divergence(counts, hist.width, limit, seen, levels) for limit in found]
    best = found[len(found) - 1 - int(np.argmin(divergences[::-1]))]
    reach = best * hist.width
    return max(seen[0], -reach), min(seen[1], reach)


def limits(hist: Histogram, levels: int) -> list[int]:
    """The limits to try, in bins from zero, the widest last."""
    most = max(1, math.ceil(max(-hist.low, hist.high) / hist.width))
    most = min(most, len(hist.counts) // 2)
    least = min(levels // 2 + 1, most)
    return [int(k) for k in np.unique(np.geomspace(least, most, NUM_LIMITS).round())]


def divergence(
    counts: NDArray[np.float64], width: float, limit: int, seen: tuple[float, float], levels: int
) -> float:
    """KL(P || Q), in nats, of the grid that saturates `limit` bins from zero, or at `seen`."""
    zero = len(counts) // 2
    inside = counts[zero - limit : zero + limit]
    if inside.sum() == 0:
        return math.inf
    value = (np.arange(-limit, limit) + 0.5) * width
    low = min(max(seen[0], -limit * width), 0.0)
    high = max(min(seen[1], limit * width), 0.0)
    scale = (high - low) / levels
    level = np.clip(np.round(value / scale) + np.round(-low / scale), 0, levels).astype(np.int64)
    kept = inside.copy()
    kept[0] += counts[: zero - limit].sum()
    kept[-1] += counts[zero + limit :].sum()
    used = kept > 0
    mass = np.bincount(level[used], weights=inside[used], minlength=levels + 1)
    shared = np.bincount(level[used], minlength=levels + 1)
    spread = np.maximum((mass / np.maximum(shared, 1))[level[used]], NOTHING)
    p, q = kept[used] / kept.sum(), spread / spread.sum()
    return float((p * np.log(p / q)).sum())


def _without_spike(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    zero = len(counts) // 2
    cut = counts.astype(np.float64)
    cut[zero] = min(cut[zero], max(cut[zero - 1], cut[zero + 1]))
    return cut

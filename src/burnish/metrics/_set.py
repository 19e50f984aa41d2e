"""The verdict for a metric that has one figure for a whole set, such as F1.

Such a figure has no score per sample, but each sample has its part in it: what the figure changes
by when the sample is left out (the jackknife; Tukey, 1958). Scaled to the set's size these parts
play the role of scores per sample. For a metric that *is* a mean they are exactly the scores, and
so the verdict here is the verdict of `verdict`, with the same honesty about rare losses that a
bootstrap, which can only repeat what the sample holds, lacks.

What is left out at a time is a sample, or a whole group, or, so that a slow metric is not called
ten thousand times, one of 500 random blocks. The metric is called 1,002 times at most.

Left out: figures that do not change smoothly with single samples (medians, a maximum), for which
the jackknife is wrong; make them a mean, or bring scores per sample.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from burnish.errors import InvalidInput
from burnish.metrics._arrays import check_lengths, num_samples, take, to_numpy
from burnish.metrics._metric import Metric
from burnish.metrics._verdict import Question, Verdict, mean_verdict, unit_of

MOST_UNITS = 500


def set_verdict(
    metric: Metric,
    targets: Any,
    baseline_outputs: Any,
    candidate_outputs: Any,
    *,
    max_drop: float,
    relative: bool = False,
    confidence: float = 0.95,
    higher_is_better: bool | None = None,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> Verdict:
    """Did the candidate keep the baseline's figure? For metrics of kind "set".

    Args:
        metric: its function takes (outputs, targets) of any subset and returns one float.
        targets: arrays or tensors [n, ...], a list of n samples, or tuples, mappings and
            dataclasses of these; `baseline_outputs` and `candidate_outputs` likewise.
        higher_is_better: the metric's own direction unless given.
        seed: of the assignment to 500 random blocks, where there are more samples or groups.
        max_drop, relative, confidence, groups: as for `verdict`.

    Fewer than 30 samples, or 20 groups, are never decided. Sources: Tukey (1958); Busing, Meijer
    and van der Leeden (1999) for groups of unequal size.

    Raises InvalidInput for a metric of another kind, arrays whose first dimension is not n, a
    figure that is not one finite number (also on a subset), and as `verdict` does.
    """
    question = Question(max_drop, relative, confidence)
    if metric.kind != "set":
        raise InvalidInput(
            f"metric '{metric.name}' is of kind '{metric.kind}' and has a score per sample: pass "
            "its scores to verdict, which needs fewer samples"
        )
    n = num_samples(targets)
    if not n:
        raise InvalidInput("targets hold no samples: give arrays whose first dimension is n")
    check_lengths(targets, n, "targets")
    check_lengths(baseline_outputs, n, "baseline_outputs")
    check_lengths(candidate_outputs, n, "candidate_outputs")
    units = np.arange(n) if groups is None else unit_of(groups, n)
    what = "samples" if groups is None else "groups"
    if int(units.max()) >= MOST_UNITS:
        units, what = _blocks(units, seed), f"blocks of {what}"
    if int(units.max()) < 1:
        raise InvalidInput(f"there is 1 of the {what}, and a jackknife needs two: give more data")
    up = metric.higher_is_better if higher_is_better is None else higher_is_better
    sign = 1.0 if up else -1.0
    was, before = _parts(metric, baseline_outputs, targets, units)
    is_now, after = _parts(metric, candidate_outputs, targets, units)
    return mean_verdict(
        question,
        sign * before,
        sign * after,
        n,
        what,
        (sign * was, sign * is_now),
        f"jackknife of '{metric.name}', t with jumps",
    )


def _parts(
    metric: Metric, outputs: Any, targets: Any, units: NDArray[np.intp]
) -> tuple[float, NDArray[np.float64]]:
    """The figure of the whole set, and each unit's part in it, [units]."""
    whole = _figure(metric, outputs, targets, "the whole set")
    sizes = np.bincount(units)
    parts = np.empty(len(sizes))
    for unit, size in enumerate(sizes):
        kept = np.flatnonzero(units != unit)
        without = _figure(metric, take(outputs, kept), take(targets, kept), f"{kept.size} samples")
        parts[unit] = whole + (len(units) - size) * (whole - without) / sizes.mean()
    return whole, parts


def _figure(metric: Metric, outputs: Any, targets: Any, what: str) -> float:
    returned = to_numpy(metric.function(outputs, targets))
    if returned.size != 1 or returned.dtype.kind not in "buif" or not np.isfinite(returned).all():
        got = f"shape {list(returned.shape)}" if returned.size != 1 else repr(returned.item())
        raise InvalidInput(
            f"metric '{metric.name}' returned {got} for {what}, expected one finite number"
        )
    return float(returned.item())


def _blocks(units: NDArray[np.intp], seed: int) -> NDArray[np.intp]:
    """The units dealt at random into as equal a number of blocks as there may be."""
    num = int(units.max()) + 1
    block = np.random.default_rng(seed).permutation(num) % MOST_UNITS
    blocks: NDArray[np.intp] = block[units]
    return blocks

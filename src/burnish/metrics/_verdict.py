"""Holds, fails, or cannot tell: the paired non-inferiority verdict.

A candidate keeps the baseline's quality when the whole interval of (candidate - baseline) lies
above -max_drop, and loses it when the whole interval lies below. In between the data cannot tell,
and the verdict says about how many samples would, if the difference and its spread stayed as they
are. Each of "holds" and "fails" is wrong at most (1 - confidence) / 2 of the time.

Binary scores of independent samples go to `_paired`, everything else to `_mean`. Where samples come
in groups the unit is the group: its sum of differences, linearised around the mean of all samples
(the ratio estimator of cluster sampling; Cochran, 1977), is one value, however many samples it has.

A relative drop of 0/1 scores becomes max_drop * mean(baseline), taken as fixed. That errs on the
safe side: where the drop is near the margin, the baseline's mean and the difference are correlated
negatively enough that ignoring the baseline's noise overstates the variance. Of other scores, and
of groups, the interval is that of mean(candidate - (1 - max_drop) * baseline), shifted to read as a
difference: the baseline's noise is in it.

Fewer than 30 samples of continuous scores, or 20 groups, are never decided.

Error rates with the true drop at the margin, at 95 %: binary at most 2.5 % either way (summed
exactly, n from 20 to 5,000); others at most 2.5 % within simulation error for normal, exponential,
zero-inflated and contaminated differences. docs/methods/verdict.md has the table and the limits.

Left out: a Bayesian reading, corrections for asking about many candidates (validation chooses, and
the test data is asked once), and samples that are dependent in time without forming groups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from burnish.errors import InvalidInput
from burnish.metrics._arrays import to_numpy
from burnish.metrics._mean import Spread
from burnish.metrics._paired import p_value, paired_interval

SMALLEST_SAMPLES = 30
SMALLEST_GROUPS = 20
MOST_SAMPLES = 10**8

State = Literal["holds", "fails", "cannot tell"]


@dataclass(frozen=True)
class Verdict:
    """Whether quality was kept, and the interval that says so.

    `difference`, `low` and `high` are candidate - baseline in the score's own unit, with the sign
    turned where lower is better: positive always means that the candidate is better. `max_drop` is
    absolute, also where a relative one (`relative`) was asked for. `n` counts samples; `needed` is
    about how many would decide, None where the verdict is decided already or no number would.
    """

    state: State
    difference: float
    low: float
    high: float
    max_drop: float
    relative: bool
    confidence: float
    n: int
    needed: int | None
    method: str
    reason: str


@dataclass(frozen=True)
class Question:
    """What is asked of the scores, checked. Shared by the verdicts on samples and on sets."""

    max_drop: float
    relative: bool
    confidence: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.max_drop) and self.max_drop >= 0):
            raise InvalidInput(
                f"max_drop is {self.max_drop}, expected a finite number >= 0: how much worse the "
                "candidate may be (0.01 for one point of accuracy)"
            )
        if not 0.5 < self.confidence < 1:
            raise InvalidInput(
                f"confidence is {self.confidence}, expected between 0.5 and 1, as 0.95"
            )

    @property
    def tail(self) -> float:
        return (1 - self.confidence) / 2

    def margin(self, baseline: float) -> float:
        """The allowed drop in the score's unit, for a baseline of that mean."""
        if not self.relative:
            return self.max_drop
        if baseline == 0:
            raise InvalidInput(
                "max_drop is relative and the baseline's mean score is 0: a share of nothing "
                "allows nothing; give an absolute max_drop (relative=False)"
            )
        return self.max_drop * abs(baseline)

    def answer(
        self, difference: float, low: float, high: float, margin: float, n: int, method: str
    ) -> Verdict:
        """The verdict that the interval alone implies; `needed` is left to the caller."""
        state: State = "cannot tell"
        if low > -margin:
            state = "holds"
            reason = f"at worst {low:+.4g} against the baseline, and -{margin:.4g} is allowed"
        elif high < -margin:
            state = "fails"
            reason = f"at best {high:+.4g} against the baseline, and -{margin:.4g} is allowed"
        else:
            reason = (
                f"the interval {low:+.4g} to {high:+.4g} of {n:,} samples holds the allowed "
                f"-{margin:.4g}"
            )
        return Verdict(
            state,
            difference,
            low,
            high,
            margin,
            self.relative,
            self.confidence,
            n,
            None,
            method,
            reason,
        )


def verdict(
    baseline: ArrayLike,
    candidate: ArrayLike,
    *,
    max_drop: float,
    relative: bool = False,
    confidence: float = 0.95,
    kind: Literal["binary", "continuous"] = "binary",
    higher_is_better: bool = True,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> Verdict:
    """Did the candidate keep the baseline's quality? Scores are paired: [n] each, same samples.

    Args:
        baseline: one score per sample, [n]; `candidate` likewise, in the same order.
        max_drop: how much worse the candidate's mean may be, >= 0, in the score's unit, or with
            `relative` as a share of the baseline's mean (the file's docstring says how).
        confidence: of the two-sided interval, between 0.5 and 1.
        kind: "binary" for 0/1 scores, else "continuous".
        groups: one label per sample, [n], where samples are not independent (windows of one
            person): whole groups are then the unit.
        seed: nothing here is random; taken so that both verdicts take the same settings.

    Raises InvalidInput for scores of different lengths, empty, not one-dimensional, not finite,
    other than 0/1 when binary; for a negative max_drop, a confidence out of range, a relative drop
    of a baseline whose mean is 0, and for fewer than two samples (continuous) or groups.
    """
    question = Question(max_drop, relative, confidence)
    if kind not in ("binary", "continuous"):
        raise InvalidInput(
            f"kind is {kind!r}, expected 'binary' or 'continuous'; for a metric with one figure "
            "for the whole set use set_verdict"
        )
    before, after = _check_scores(baseline, candidate, kind)
    units = None if groups is None else unit_of(groups, len(before))
    if kind == "binary" and (units is None or len(np.unique(units)) == len(before)):
        sign = 1 if higher_is_better else -1
        return _binary_verdict(question, before, after, sign)
    if not higher_is_better:
        before, after = -before, -after
    if units is None:
        return mean_verdict(question, before, after, len(before), "samples")
    return mean_verdict(
        question, per_group(before, units), per_group(after, units), len(before), "groups"
    )


def mean_verdict(
    question: Question,
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    n: int,
    units: str,
    totals: tuple[float, float] | None = None,
    method: str = "mean of paired differences, t with jumps",
) -> Verdict:
    """The verdict on one value per unit, [units] each, higher is better.

    `totals` are the two figures themselves where they are not the means of the values. Raises
    InvalidInput for fewer than two units.
    """
    num = len(before)
    if num < 2:
        raise InvalidInput(
            f"there is {num} of the {units}, and a spread needs two: give more data, or leave "
            "groups out if the samples are independent"
        )
    was, is_now = totals or (float(before.mean()), float(after.mean()))
    margin = question.margin(was)
    # For a relative drop the statistic is candidate - (1 - drop) * baseline, whose own margin is 0.
    share = math.copysign(question.max_drop, was) if question.relative else 0.0
    span = max(before.max(), after.max()) - min(before.min(), after.min())
    spread = Spread.of(after - before + share * before, float(span))
    low = is_now - was - spread.reach(num, question.tail, down=True)
    high = is_now - was + spread.reach(num, question.tail, down=False)
    answer = question.answer(is_now - was, low, high, margin, n, f"{method}, over {units}")
    smallest = SMALLEST_SAMPLES if units == "samples" else SMALLEST_GROUPS
    if num >= smallest and answer.state != "cannot tell":
        return answer
    distance = is_now - was + margin
    enough = num if answer.state != "cannot tell" else None
    if enough is None and not _on_margin(distance, margin):
        most = MOST_SAMPLES * num // n
        enough = spread.needed(num, abs(distance), question.tail, down=distance > 0, most=most)
    why = answer.reason
    if num < smallest:
        why = f"{num} {units} are too few for any verdict (the smallest is {smallest}); {why}"
    needed = None if enough is None else math.ceil(max(enough, smallest) * n / num)
    return undecided(answer, needed, why)


def undecided(answer: Verdict, needed: int | None, why: str) -> Verdict:
    """`answer` as "cannot tell", with how many samples would tell."""
    if needed is None:
        hope = "the difference sits on the margin, and no reasonable number of samples would decide"
    else:
        hope = f"about {needed:,} samples would decide if the difference stays as it is"
    return Verdict(
        "cannot tell",
        answer.difference,
        answer.low,
        answer.high,
        answer.max_drop,
        answer.relative,
        answer.confidence,
        answer.n,
        needed,
        answer.method,
        f"{why}; {hope}",
    )


def unit_of(groups: ArrayLike, n: int) -> NDArray[np.intp]:
    """The number of each sample's group, [n]. Raises InvalidInput for another shape or NaN."""
    labels = to_numpy(groups)
    if labels.shape != (n,):
        raise InvalidInput(
            f"groups has shape {list(labels.shape)}, expected [{n}]: one label per sample"
        )
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        raise InvalidInput("groups has NaN: give each sample the label of its group")
    numbers: NDArray[np.intp] = np.unique(labels, return_inverse=True)[1].reshape(-1)
    return numbers


def per_group(values: NDArray[np.float64], units: NDArray[np.intp]) -> NDArray[np.float64]:
    """One value per group, [groups]: their mean is the mean over samples, their spread its noise.

    A group counts by its sum; the linear term takes out what only its size explains.
    """
    sizes = np.bincount(units)
    sums = np.bincount(units, weights=values)
    mean = values.mean()
    linearised: NDArray[np.float64] = mean + (sums - mean * sizes) / sizes.mean()
    return linearised


def _binary_verdict(
    question: Question, before: NDArray[np.float64], after: NDArray[np.float64], sign: int
) -> Verdict:
    n, margin = len(before), question.margin(float(before.mean()))
    gains, losses = int((after > before).sum()), int((after < before).sum())
    if sign < 0:
        gains, losses = losses, gains
    low, high = paired_interval(n, gains, losses, question.confidence)
    method = "paired proportions, exact tail at Tango's restricted estimate"
    answer = question.answer((gains - losses) / n, low, high, margin, n, method)
    if answer.state != "cannot tell":
        return answer
    needed = _binary_needed(n, gains, losses, margin, question.tail)
    return undecided(answer, needed, answer.reason)


def _binary_needed(n: int, gains: int, losses: int, margin: float, tail: float) -> int | None:
    """About the smallest n that would decide at the same rates of gains and losses."""
    distance = (gains - losses) / n + margin
    if _on_margin(distance, margin):
        return None
    # "Fails" is "holds" of the swapped pair at the opposite difference.
    up, down = (gains, losses) if distance > 0 else (losses, gains)
    at = -margin if distance > 0 else margin

    def decides(size: int) -> bool:
        # Counts are whole: round against the decision, or luck in rounding would promise too much.
        counts = math.floor(up * size / n), math.ceil(down * size / n)
        return p_value(size, *counts, at) < tail

    if at <= -1 or at >= 1:
        return None
    few, many = n, 2 * n
    while not decides(many):
        few, many = many, 2 * many
        if few > MOST_SAMPLES:
            return None
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if decides(middle) else (middle, many)
    return many


def _on_margin(distance: float, margin: float) -> bool:
    return abs(distance) <= 1e-9 * max(margin, 1e-3)


def _check_scores(
    baseline: ArrayLike, candidate: ArrayLike, kind: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    checked = []
    for name, given in (("baseline", baseline), ("candidate", candidate)):
        array = to_numpy(given)
        if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "buif":
            raise InvalidInput(
                f"{name} is {array.dtype} of shape {list(array.shape)}, expected numbers of shape "
                "[n], one score per sample and at least one sample"
            )
        values = array.astype(np.float64)
        if not np.isfinite(values).all():
            bad = np.flatnonzero(~np.isfinite(values))
            raise InvalidInput(
                f"{name} has NaN or infinity in {bad.size} of {values.size} scores (first: sample "
                f"{bad[0]}); a verdict needs a score for every sample"
            )
        if kind == "binary" and not np.isin(values, (0.0, 1.0)).all():
            raise InvalidInput(
                f"{name} has scores other than 0 and 1; pass kind='continuous' for them"
            )
        checked.append(values)
    if checked[0].size != checked[1].size:
        raise InvalidInput(
            f"baseline has {checked[0].size} scores and candidate {checked[1].size}: a paired "
            "verdict needs both on the same samples, in the same order"
        )
    return checked[0], checked[1]

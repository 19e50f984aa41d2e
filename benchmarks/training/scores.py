"""Right or wrong, sample by sample: how it is kept in a journal, and how two rows are compared.

Several runs of one kind (seeds) are compared by each sample's mean over them, so that an interval
is over samples (or over groups of them); how much the seeds themselves differ is told beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from models.model import Watch
from numpy.typing import ArrayLike, NDArray

from burnish import Task
from burnish.metrics import Verdict, verdict
from burnish.train import evaluate

CONFIDENCE = 0.95


def answers(network: Callable[..., Any], task: Task, watch: Watch | None = None) -> str:
    """A network's answers to the validation data: "1" where it is right, else "0"."""
    scores = evaluate(network, task, "validation", watch=watch)
    assert scores.values is not None
    return "".join("1" if score else "0" for score in scores.values)


def figures(answered: str) -> NDArray[np.float64]:
    """The scores, [n]."""
    return (np.frombuffer(answered.encode(), np.uint8) == ord("1")).astype(np.float64)


def figure(answered: str) -> float:
    """The share that is right."""
    return float(figures(answered).mean())


def compared(
    before: Sequence[str],
    after: Sequence[str],
    *,
    max_drop: float = 0.0,
    groups: ArrayLike | None = None,
) -> Verdict:
    """The paired verdict on after - before, one or several runs each.

    At a `max_drop` of 0 it holds only where `after` is better beyond its interval.
    """
    one, other = (np.mean([figures(text) for text in runs], axis=0) for runs in (before, after))
    single = len(before) == len(after) == 1
    return verdict(
        one,
        other,
        max_drop=max_drop,
        confidence=CONFIDENCE,
        kind="binary" if single else "continuous",
        groups=groups,
    )


def told(answer: Verdict) -> dict[str, Any]:
    """A verdict as plain JSON."""
    return asdict(answer)

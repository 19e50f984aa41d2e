"""A value that changes while training goes on: a learning rate, a temperature, a loss's weight.

A schedule is a curve over *progress*, which is 0 at the first step and 1 after the last. It knows
nothing of epochs or batches, so the same schedule serves a training of any length, and whoever asks
it beyond its end has counted wrongly and is told so.

    constant    start throughout
    linear      straight from start to end
    cosine      half a cosine from start to end (Loshchilov and Hutter, 2017, without restarts)
    one_cycle   from 1/25 up to start over the first 30 %, then half a cosine down to end
                (Smith and Topin, 2018, the rate only: the momentum stays)

A warm-up puts a straight climb from 0 to start before the curve, which then takes the rest.

Left out: restarts, steps at given epochs, and schedules that look at the loss. For a learning rate
any of torch's own schedulers can be given to `fit` instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from burnish.errors import InvalidInput

RISE = 0.3
FIRST = 1 / 25


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _one_cycle(progress: float) -> float:
    if progress < RISE:
        return FIRST + (1 - FIRST) * progress / RISE
    return _cosine((progress - RISE) / (1 - RISE))


# How far a curve is from its end: 1 is the start, 0 the end.
_CURVES: Mapping[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": _cosine,
    "linear": lambda progress: 1 - progress,
    "one_cycle": _one_cycle,
}


@dataclass(frozen=True)
class Schedule:
    """A value over progress 0 to 1.

    Args:
        kind: "constant", "linear", "cosine" or "one_cycle".
        start: its value at the beginning; of a learning rate, the share of `learning_rate`.
        end: its value at the end.
        warm_up: the share of the training, below 1, in which it first climbs from 0 to `start`.

    Raises:
        InvalidInput: another kind, a number that is not finite, a warm-up outside 0 to 1 or before
            a one-cycle, which has its own; a constant with another end.
    """

    kind: str = "cosine"
    start: float = 1.0
    end: float = 0.0
    warm_up: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in _CURVES:
            raise InvalidInput(f"Schedule({self.kind!r}): one of {', '.join(sorted(_CURVES))}")
        for name in ("start", "end"):
            if not math.isfinite(getattr(self, name)):
                raise InvalidInput(f"Schedule({name}={getattr(self, name)}): a finite number")
        if not 0 <= self.warm_up < 1:
            raise InvalidInput(
                f"Schedule(warm_up={self.warm_up}): the share of the training it takes, 0 or more "
                "and below 1"
            )
        if self.kind == "one_cycle" and self.warm_up:
            raise InvalidInput(
                f"Schedule('one_cycle', warm_up={self.warm_up}): a one-cycle climbs by itself over "
                f"its first {RISE:.0%}; leave warm_up at 0, or take 'cosine' with it"
            )
        if self.kind == "constant" and self.end not in (0.0, self.start):
            raise InvalidInput(
                f"Schedule('constant', start={self.start}, end={self.end}): a constant has no "
                "other end; take 'linear' or 'cosine'"
            )

    def at(self, progress: float) -> float:
        """The value at a progress between 0 and 1. InvalidInput outside."""
        if not 0 <= progress <= 1:
            raise InvalidInput(
                f"a schedule was asked for its value at progress {progress}: it begins at 0 and "
                "is over at 1"
            )
        if progress < self.warm_up:
            return self.start * progress / self.warm_up
        share = _CURVES[self.kind]((progress - self.warm_up) / (1 - self.warm_up))
        return self.start if share == 1 else self.end + (self.start - self.end) * share

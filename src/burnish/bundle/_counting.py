"""Counting in turns: a session with its counters on, and the same without them.

Counting costs time, and so does a cold cache. So one process holds the artifact twice, as it ships
and with its counters on, and the two take turns of some 30 ms; the first run of a turn is not
counted where the runtime lets us choose.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from burnish.bundle._counts import Counts
from burnish.bundle._session import Session

_TURN = 0.03  # seconds
_FEWEST_TURNS = 4
_WARMUP = 3


def count(
    session: Session,
    inputs: list[np.ndarray[Any, Any]],
    repeats: int,
    alive: Callable[[], None],
) -> Counts:
    """Count over `repeats` runs, after a warm-up; `alive` is called after each run."""
    whole: list[float] = []
    counted: list[float] = []
    with session.counting(inputs) as counter:
        for _ in range(_WARMUP):
            session.run(inputs)
            counter.run(counted=False)
            alive()
        (single,) = _turn(lambda _: session.run(inputs), 1, alive)
        turn = math.ceil(min(_TURN / max(single, 1e-9), repeats / _FEWEST_TURNS))
        while len(counted) < repeats:
            length = min(turn, repeats - len(counted))
            whole += _turn(lambda _: session.run(inputs), length, alive)
            counted += _turn(lambda first: counter.run(counted=not first), length, alive)
        times = counter.times()
    return Counts(tuple(times), float(np.median(whole)), float(np.median(counted)))


def _turn(run: Callable[[bool], object], length: int, alive: Callable[[], None]) -> list[float]:
    """Seconds of each of `length` runs after one that is not timed; `run` is told which is that."""
    run(True)
    seconds = []
    for _ in range(length):
        start = time.perf_counter()
        run(False)
        seconds.append(time.perf_counter() - start)
        alive()
    return seconds

"""When a training has to stop: its loss is not finite, or has exploded.

A loss that is NaN or infinite ends the training before the step it would have caused. One that is
merely huge may be a single bad batch, so the median of the last losses is watched: above a hundred
times the first loss (or a hundred, where that was small) nothing is being learned any more. The
bound is wide on purpose: a loss may grow by its own schedule, and stopping a good training is
worse than wasting a bad one's minutes.

float16 has a second way to fail: where the gradients are not finite even unscaled, each step is
skipped and the scale halved for ever. Below a scale of 1 that is what happens.

Left out: turning back to the checkpoint and going on with a smaller rate. That is a new training.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path

from burnish.errors import Diverged

WINDOW = 20
EXPLODED = 100.0


class Watchdog:
    """Looks at each loss. `seen` are the losses before a resumption."""

    def __init__(self, seen: Iterable[float] = ()) -> None:
        self._last: deque[float] = deque(maxlen=WINDOW)
        self._bound = math.inf
        for loss in seen:
            self._note(loss)

    def look(
        self,
        parts: Mapping[str, float],
        step: int,
        where: str,
        learning_rate: float,
        checkpoint: Path | None,
    ) -> None:
        """Diverged where the loss is not finite, or has exploded."""
        loss = sum(parts.values())
        if not math.isfinite(loss):
            broken = [name for name, value in parts.items() if not math.isfinite(value)]
            what = f"the loss is {loss}" + (f" (part {broken[0]!r})" if len(parts) > 1 else "")
            raise _diverged(what, where, step, learning_rate, checkpoint)
        self._note(loss)
        if statistics.median(self._last) > self._bound:
            what = (
                f"the loss has exploded: a median of {statistics.median(self._last):.4g} over the "
                f"last {len(self._last)} steps, where {self._bound:.4g} is the most"
            )
            raise _diverged(what, where, step, learning_rate, checkpoint)

    def _note(self, loss: float) -> None:
        if self._bound == math.inf:
            self._bound = EXPLODED * max(1.0, abs(loss))
        self._last.append(loss)


def diverged_scale(
    scale: float, step: int, where: str, learning_rate: float, checkpoint: Path | None
) -> Diverged:
    """Gradients that are not finite even without a scale."""
    what = f"the gradients are not finite although the loss's scale is down to {scale:.4g}"
    return _diverged(what, where, step, learning_rate, checkpoint)


def diverged_weights(
    name: str, step: int, where: str, learning_rate: float, checkpoint: Path | None
) -> Diverged:
    """A weight that is not finite after an epoch whose losses were."""
    what = f"the parameter {name!r} holds NaN or infinity"
    return _diverged(what, where, step, learning_rate, checkpoint)


def _diverged(
    what: str, where: str, step: int, learning_rate: float, checkpoint: Path | None
) -> Diverged:
    good = f"the last good state is in {checkpoint}" if checkpoint else "no checkpoint was written"
    return Diverged(
        f"{what} at {where}, with a learning rate of {learning_rate:.4g}: lower the rate, clip the "
        f"gradient (Tricks(clip=1.0)), or look for NaN in that batch; {good}",
        step,
        learning_rate,
        checkpoint,
    )

"""Steps in rounds: the same chain again and again, or a removal cut into parts by a schedule.

    repeat(PruneChannels(0.1) >> Train(2, 1e-3), 3)
    gradual(PruneWeights(0.9), recover=Train(2, 1e-3), rounds=5, schedule="cubic")

Removing much at once loses what a network with more time would have made up for. So `gradual`
removes a part, lets the model recover by any step (training, distillation from the original), and
goes on until the whole share is gone. After round t of n rounds there is gone, of a share s that
starts at s0:

    cubic       s + (s0 - s) · (1 - t/n)³     much at first, little at the end (Zhu and Gupta, 2018)
    linear      s0 + (s - s0) · t/n           as much of the original each round
    geometric   1 - (1-s0) · ((1-s)/(1-s0))^(t/n)   the same share of what is left each round

How a step takes its share from one value to another is its own business (`Parted`): masks say what
is masked in all, channels what to remove of those that are left. Channels are whole, and a round
never removes quite what it was asked for. So each round starts from what is really gone, and one
whose share is less than a channel leaves it to the next and only recovers. The history holds what
was done.

Left out: a schedule in steps of one training (masks that grow while it runs); going back a round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from burnish.core import Candidate, Chain, Choices, Rewrite, Step
from burnish.errors import InvalidInput, NoEffect
from burnish.goal import Goal

_Curve = Callable[[float, float, float], float]
SCHEDULES: MappingProxyType[str, _Curve] = MappingProxyType(
    {
        "cubic": lambda start, share, done: share + (start - share) * (1 - done) ** 3,
        "linear": lambda start, share, done: start + (share - start) * done,
        "geometric": lambda start, share, done: (
            1 - (1 - start) * ((1 - share) / (1 - start)) ** done
        ),
    }
)


@runtime_checkable
class Parted(Protocol):
    """A step that removes a share, and can do so in parts."""

    @property
    def share(self) -> float:
        """What is gone once all of it is done."""
        ...

    def part(self, before: float, after: float) -> Rewrite:
        """The step that takes what is gone from one share to another."""
        ...

    def reached(self, before: float, choices: Choices) -> float:
        """What is gone once a part that began at `before` has made its choices."""
        ...


@dataclass(frozen=True)
class Gradual:
    """A step in rounds. `shares`: what is to be gone after each of them."""

    step: Parted
    recover: Step
    shares: tuple[float, ...]
    start: float = 0.0

    def apply(self, candidate: Candidate, goal: Goal) -> Candidate:
        """All rounds. NoEffect where the first removes nothing."""
        gone = self.start
        for number, share in enumerate(self.shares, start=1):
            if share > gone:
                try:
                    candidate = self.step.part(gone, share).apply(candidate, goal)
                    gone = self.step.reached(gone, candidate.history[-1].choices)
                except NoEffect as error:
                    if number == 1:
                        raise NoEffect(
                            f"gradual(): the first of {len(self.shares)} rounds, from {gone:g} to "
                            f"{share:.3g}, removes nothing ({error}): ask for fewer rounds"
                        ) from error
            candidate = self.recover.apply(candidate, goal)
        return candidate

    def __rshift__(self, other: Step) -> Chain:
        return Chain((self,)) >> other


def gradual(
    step: Parted,
    *,
    recover: Step,
    rounds: int = 5,
    schedule: str = "cubic",
    start: float = 0.0,
) -> Gradual:
    """A step that removes a share, in rounds, with recovery after each.

    Args:
        step: all of it, as `PruneWeights(0.9)` or `PruneChannels(0.5)`.
        recover: what comes after each round: `Train`, `Distill` from the original, a chain.
        rounds: how many.
        schedule: what is gone after each round: "cubic" (Zhu and Gupta, 2018), "linear" or
            "geometric" (the same share of what is left).
        start: what is gone before the first round, where this model was pruned already.

    Returns:
        A step; its `shares` say what is to be gone after each round.

    Raises:
        InvalidInput: a step that has no parts, a setting out of range.
    """
    if not isinstance(step, Parted):
        raise InvalidInput(
            f"gradual() takes a step that removes a share, as PruneWeights(0.9) or "
            f"PruneChannels(0.5), and was given a {type(step).__name__}: repeat(step, times) "
            "applies any step several times"
        )
    if not isinstance(recover, Step):
        raise InvalidInput(
            f"gradual(recover=…) is a {type(recover).__name__}: give a step, as Train(1, 1e-3)"
        )
    _check_times("gradual(rounds", rounds)
    if schedule not in SCHEDULES:
        raise InvalidInput(f"gradual(schedule={schedule!r}): one of {', '.join(SCHEDULES)}")
    share = step.share
    if not 0 <= start < share:
        raise InvalidInput(
            f"gradual(start={start!r}): what is gone already, from 0 up to, not including, the "
            f"{share:g} that shall be gone"
        )
    curve = SCHEDULES[schedule]
    shares = [curve(start, share, number / rounds) for number in range(1, rounds)]
    return Gradual(step, recover, (*shares, share), start)


def repeat(step: Step, times: int) -> Chain:
    """A step or a chain several times over: a ratio is of what the model has each time.

    Raises:
        InvalidInput: `times` is no whole number from 1 up.
    """
    if not isinstance(step, Step):
        raise InvalidInput(f"repeat() takes a step or a chain, not a {type(step).__name__}")
    _check_times("repeat(times", times)
    steps = step.steps if isinstance(step, Chain) else (step,)
    return Chain(steps * times)


def _check_times(setting: str, number: int) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise InvalidInput(f"{setting}={number!r}): a whole number, at least 1")

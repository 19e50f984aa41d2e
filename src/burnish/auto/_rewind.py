"""`Rewind`: the weights that were not pruned, as they were earlier: the lottery ticket.

    net → Train → PruneWeights → Rewind(net) → Train

Which weights matter is seen in a trained network; what is trained again is the small one, from the
values the large one began with (Frankle and Carbin, 2019) or had after a little training (Frankle,
Dziugaite, Roy and Carbin, 2020: without that, deep networks lose the ticket).

The early model is built again from its history: the steps up to the one to go back to, then of
those since only what they removed (`DropBlocks`, `PruneChannels`, `PruneWeights`), not what they
trained. So masks stay, and channels that are gone are cut out of the early weights as they were
cut out of the late ones; running statistics go back, too. What differs from the present model
travels in the choices: a replay needs neither the early model nor data.

The original is no part of a candidate and has to be given. That it is the right one is tried: every
training of the history must have begun from what is replayed from it, bit for bit, and the end be
this very candidate.

Left out: histories with other steps, quantizing ones say, whose tensors belong to the late weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from burnish.auto._ladder import Recover
from burnish.auto._sparse import TrainSparse
from burnish.core import Applied, Candidate, Choices, Rewrite, model_hash
from burnish.distill import Distill
from burnish.errors import InvalidInput, NoEffect, Unsupported
from burnish.goal import Goal
from burnish.prune import DropBlocks, PruneChannels, PruneTo, PruneWeights
from burnish.recipe import replay
from burnish.train import Train, changed_state, load_state

_REMOVING: tuple[type[Rewrite], ...] = (DropBlocks, PruneChannels, PruneTo, PruneWeights)
_TRAINING: tuple[type[Rewrite], ...] = (Distill, Recover, Train, TrainSparse)


@dataclass(frozen=True, eq=False)
class Rewind(Rewrite):
    """Put what is left of the weights back to what they were after an earlier step.

    Args:
        original: the model the candidate began with; in a history, its hash (`core.model_hash`).
        to: after how many steps of the history; 0 for the original's own weights.

    Raises:
        InvalidInput: what is no model; a number below 0.
    """

    original: Any
    to: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.original, nn.Module | str):
            raise InvalidInput(
                f"Rewind(original=…) is a {type(self.original).__name__}: give the model the "
                "candidate began with"
            )
        if isinstance(self.to, bool) or not isinstance(self.to, int) or self.to < 0:
            raise InvalidInput(f"Rewind(to={self.to!r}): a number of steps, 0 or more")

    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        """Unsupported: which weights there were, a candidate's history knows."""
        raise Unsupported(
            "Rewind goes back in a candidate's history, which a model alone does not have: "
            "Rewind(original).apply(candidate, goal)"
        )

    def rewrite(self, model: nn.Module, choices: Choices) -> nn.Module:
        """A copy with the early weights. Damaged where they do not fit the model."""
        return load_state(model, choices.tensors)

    def apply(self, candidate: Candidate, goal: Goal) -> Candidate:
        """Go back, and write it into the history, the original by a hash of its weights.

        Raises:
            InvalidInput: an original that this history does not lead from to this candidate; more
                steps than it has; a step read from a history.
            Unsupported: the history holds other steps than pruning and training.
            NoEffect: nothing was trained since.
        """
        early = self._early(candidate)
        choices = Choices(self._plan(candidate), _earlier(candidate.model, early))
        settings = {"original": model_hash(self.original), "to": self.to}
        model = self.rewrite(candidate.model, choices)
        return candidate.after(model, Applied("Rewind", settings, choices))

    def _early(self, candidate: Candidate) -> nn.Module:
        """The early model without what was removed since."""
        history = candidate.history
        if isinstance(self.original, str):
            raise InvalidInput(
                "this Rewind was read from a history, which holds the early weights and not the "
                "original: replay it, or give it the original to go back again"
            )
        if not history:
            raise NoEffect("Rewind: the history is empty: there is nothing to go back over")
        if self.to > len(history):
            raise InvalidInput(
                f"Rewind(to={self.to}): the history has {len(history)} steps, "
                f"{' >> '.join(applied.step for applied in history)}"
            )
        known = _known()
        other = [applied.step for applied in history if applied.step not in known]
        if other:
            raise Unsupported(
                f"Rewind cannot go back in a history with {other[0]}: it knows what "
                f"{', '.join(sorted(known))} leave of earlier weights; rewind before it"
            )
        self._check_original(candidate)
        return replay(self.original, [*history[: self.to], *self._removed(history)], known)

    def _check_original(self, candidate: Candidate) -> None:
        """InvalidInput where the history began with another model."""
        model, right = self.original, True
        for applied in candidate.history:
            right = right and applied.choices.plan.get("from") in (None, model_hash(model))
            model = replay(model, [applied], _known())
        if not right or model_hash(model) != model_hash(candidate.model):
            raise InvalidInput(
                "Rewind(original=…): the candidate's history does not lead from this model to the "
                "candidate's: give the model it began with, as it was then"
            )

    def _removed(self, history: tuple[Applied, ...]) -> list[Applied]:
        """What was removed since."""
        names = [step.__name__ for step in _REMOVING]
        return [applied for applied in history[self.to :] if applied.step in names]

    def _plan(self, candidate: Candidate) -> dict[str, Any]:
        """What was gone back to, and what was kept and dropped of the steps since."""
        history = candidate.history
        since = history[self.to :]
        kept = self._removed(history)
        return {
            "after": history[self.to - 1].step if self.to else "the original",
            "kept": [applied.step for applied in kept],
            "undone": [applied.step for applied in since if applied not in kept],
        }


def _known() -> Mapping[str, Callable[..., Rewrite]]:
    """The steps a history may hold, an earlier `Rewind` among them."""
    steps: tuple[type[Rewrite], ...] = (*_REMOVING, *_TRAINING, Rewind)
    return {step.__name__: step for step in steps}


def _earlier(model: nn.Module, early: nn.Module) -> dict[str, torch.Tensor]:
    """Entries of the early state that differ from the model's. NoEffect where none does."""
    try:
        return changed_state(model, early)
    except NoEffect:
        raise NoEffect(
            "Rewind: no weight differs from what it was then: nothing was trained since"
        ) from None

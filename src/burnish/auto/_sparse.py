"""`TrainSparse`: training with a penalty on groups of channels, so that some fade before they go.

What the penalty is stands in `prune._penalty`, what training is in `train`; this puts them
together. The step removes nothing: `TrainSparse(…) >> PruneChannels(0.5)` does.

Left out: stopping by how far the channels have faded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from burnish.core import Choices, Rewrite
from burnish.errors import InvalidInput
from burnish.goal import Goal
from burnish.prune import GroupPenalty
from burnish.train import Train, load_state


@dataclass(frozen=True)
class TrainSparse(Rewrite):
    """Train with a penalty on the norms of channels.

    Args:
        training: how to train: epochs, learning rate, precision, … (`Train`).
        penalty: its strength, kind and growth (`prune.GroupPenalty`).

    Raises:
        InvalidInput: a training that is no `Train`, a penalty that is no `GroupPenalty`.
    """

    training: Any
    penalty: Any

    def __post_init__(self) -> None:
        for name, kind, example in (
            ("training", Train, "Train(epochs=5, learning_rate=1e-3)"),
            ("penalty", GroupPenalty, "GroupPenalty(1e-4)"),
        ):
            value = getattr(self, name)
            if isinstance(value, Mapping):  # read from a history
                value = kind(**value)
                object.__setattr__(self, name, value)
            if not isinstance(value, kind):
                raise InvalidInput(
                    f"TrainSparse({name}=…) is a {type(value).__name__}: give a {kind.__name__}, "
                    f"as {example}"
                )

    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        """Train a copy; the entries of its state that changed, and which layers were drawn.

        Raises:
            NoEffect: no group may lose a channel, or no weight changed; and as `train.fit`.
        """
        regularizer = self.penalty.on(model, goal.task.inputs)
        choices: Choices = self.training.choices(model, goal, regularizer=regularizer)
        told = {"layers": list(regularizer.layers), "left alone": dict(regularizer.left)}
        return Choices({**choices.plan, **told}, choices.tensors)

    def rewrite(self, model: nn.Module, choices: Choices) -> nn.Module:
        """A copy with the weights training came to. Damaged where they do not fit the model."""
        return load_state(model, choices.tensors)

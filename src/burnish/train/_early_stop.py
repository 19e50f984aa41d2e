"""Stopping when the validation score no longer improves, and keeping the epoch that was best.

After each epoch the model is scored on the validation data (averaged weights, where an average is
kept: what is scored is what would be given back). A score better than any before is kept with the
weights that earned it; after `patience` epochs without one, training is over.

The validation data chose the epoch, so its score is optimistic; a figure to report comes from the
test data.

Left out: a smallest improvement that counts. With a patience of more than one epoch it changes
little, and nobody knows what to set it to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class Patience:
    """The best epoch so far."""

    def __init__(self, epochs: int, higher_is_better: bool) -> None:
        self._epochs = epochs
        self._sign = 1 if higher_is_better else -1
        self.best: float | None = None
        self.epoch = -1
        self._weights: dict[str, torch.Tensor] = {}

    def see(self, epoch: int, figure: float, model: nn.Module) -> None:
        """An epoch's score, and the model that earned it."""
        if self.best is None or self._sign * (figure - self.best) > 0:
            self.best, self.epoch = figure, epoch
            self._weights = {name: t.detach().clone() for name, t in model.state_dict().items()}

    def over(self, epoch: int) -> bool:
        """Whether training ends after `epoch`."""
        return epoch - self.epoch >= self._epochs

    def apply(self, model: nn.Module) -> None:
        """Write the best epoch's weights into the model."""
        model.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"best": self.best, "epoch": self.epoch, "weights": self._weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave."""
        self.best, self.epoch, self._weights = state["best"], state["epoch"], state["weights"]

"""A moving average of the weights, which is often better than where the last step left them.

After each step every floating tensor of the model (parameters, and the running statistics that
belong to them) moves by 1 - decay towards what it is now (Polyak and Juditsky, 1992; the decaying
form is TensorFlow's). Early on the average would be mostly the untrained start, so the decay begins
small: at step n it is at most (1 + n) / (10 + n). Counters are taken as they are.

Left out: averaging every few steps only, and re-estimating batch-norm on the averaged weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class MovingAverage:
    """The average of a model's floating tensors; `model` itself is only read."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model = model
        self._decay = decay
        self.num_steps = 0
        self.mean = [tensor.clone() for tensor in self._tensors()]

    @torch.no_grad()
    def update(self) -> None:
        """After an optimizer step."""
        self.num_steps += 1
        decay = min(self._decay, (1 + self.num_steps) / (10 + self.num_steps))
        torch._foreach_lerp_(self.mean, self._tensors(), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the average inside the block and its own tensors again afterwards."""
        own = [tensor.clone() for tensor in self._tensors()]
        self.apply()
        try:
            yield
        finally:
            self._write(own)

    def apply(self) -> None:
        """Write the average into the model."""
        self._write(self.mean)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"mean": self.mean, "num_steps": self.num_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave."""
        pairs = zip(state["mean"], self.mean, strict=True)
        self.mean = [tensor.to(own.device) for tensor, own in pairs]
        self.num_steps = state["num_steps"]

    def _tensors(self) -> list[torch.Tensor]:
        """Looked up each time: a module may put another tensor in a buffer's place."""
        tensors = [*self._model.parameters(), *self._model.buffers()]
        return [tensor.detach() for tensor in tensors if tensor.is_floating_point()]

    @torch.no_grad()
    def _write(self, values: list[torch.Tensor]) -> None:
        for tensor, value in zip(self._tensors(), values, strict=True):
            tensor.copy_(value)

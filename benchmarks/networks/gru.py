"""Two layers of GRU over a window of sensor values, and a linear layer on their mean over time.

Scaling to mean 0 and deviation 1 is part of the network, so that it takes what the sensor gives.
"""

from __future__ import annotations

import torch
from torch import nn


class WindowClassifier(nn.Module):
    """float32 [n, length, channels] -> logits [n, classes]."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, channels: int, classes: int, hidden: int = 128) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))
        self.gru = nn.GRU(channels, hidden, num_layers=2, batch_first=True)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states, _ = self.gru((x - self.mean) / self.deviation)
        logits: torch.Tensor = self.head(states.mean(1))
        return logits

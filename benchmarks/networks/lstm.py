"""One layer of LSTM over a window of sensor values, and a linear layer on its mean over time.

Scaling to mean 0 and deviation 1 is part of the network, so that it takes what the sensor gives.
"""

from __future__ import annotations

import torch
from torch import nn


class WindowLSTM(nn.Module):
    """float32 [n, length, channels] -> logits [n, classes]; `hidden` units."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, channels: int, classes: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))
        self.lstm = nn.LSTM(channels, hidden, batch_first=True)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states, _ = self.lstm((x - self.mean) / self.deviation)
        logits: torch.Tensor = self.head(states.mean(1))
        return logits

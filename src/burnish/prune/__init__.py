"""Pruning: whole channels removed, exactly as if they had been masked."""

from __future__ import annotations

from burnish.prune._channels import PruneChannels, prune_channels
from burnish.prune._report import LayerChannels, pruned_layers

__all__ = ["LayerChannels", "PruneChannels", "prune_channels", "pruned_layers"]

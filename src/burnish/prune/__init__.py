"""Pruning: whole channels removed, exactly as if they had been masked; single weights masked."""

from __future__ import annotations

from burnish.prune._channels import PruneChannels, prune_channels
from burnish.prune._mask import is_masked, masks_of, remove_masks
from burnish.prune._report import LayerChannels, pruned_layers
from burnish.prune._weights import PruneWeights, WeightSparsity, masked_weights, prune_weights

__all__ = [
    "LayerChannels",
    "PruneChannels",
    "PruneWeights",
    "WeightSparsity",
    "is_masked",
    "masked_weights",
    "masks_of",
    "prune_channels",
    "prune_weights",
    "pruned_layers",
    "remove_masks",
]

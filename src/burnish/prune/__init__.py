"""Pruning: channels removed, exactly as if masked; blocks dropped; single weights masked."""

from __future__ import annotations

from burnish.prune._channels import PruneChannels, prune_channels
from burnish.prune._depth import BlockRow, DropBlocks, drop_blocks, dropped_blocks
from burnish.prune._mask import is_masked, masks_of, remove_masks
from burnish.prune._penalty import GroupPenalty, group_penalty
from burnish.prune._program import Priced
from burnish.prune._report import LayerChannels, pruned_layers
from burnish.prune._residual import ResidualBlock, residual_blocks
from burnish.prune._survey import PruningSurvey
from burnish.prune._target import PruneTo, prune_to
from burnish.prune._terms import tabulate
from burnish.prune._weights import PruneWeights, WeightSparsity, masked_weights, prune_weights

__all__ = [
    "BlockRow",
    "DropBlocks",
    "GroupPenalty",
    "LayerChannels",
    "Priced",
    "PruneChannels",
    "PruneTo",
    "PruneWeights",
    "PruningSurvey",
    "ResidualBlock",
    "WeightSparsity",
    "drop_blocks",
    "dropped_blocks",
    "group_penalty",
    "is_masked",
    "masked_weights",
    "masks_of",
    "prune_channels",
    "prune_to",
    "prune_weights",
    "pruned_layers",
    "remove_masks",
    "residual_blocks",
    "tabulate",
]

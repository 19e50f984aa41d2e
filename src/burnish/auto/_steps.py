"""The table of step names: what a history may name, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from burnish.auto._ladder import Recover
from burnish.auto._rewind import Rewind
from burnish.auto._sparse import TrainSparse
from burnish.core import Rewrite
from burnish.distill import Distill
from burnish.prune import DropBlocks, PruneChannels, PruneTo, PruneWeights
from burnish.quantize import (
    Cast,
    ConvertQat,
    CrossLayerEqualization,
    MixedPrecision,
    PrepareQat,
    QuantizeDynamic,
    QuantizeStatic,
    QuantizeWeights,
    SmoothQuant,
)
from burnish.train import Train

_KNOWN: tuple[type[Rewrite], ...] = (
    Cast,
    ConvertQat,
    CrossLayerEqualization,
    Distill,
    DropBlocks,
    MixedPrecision,
    PrepareQat,
    PruneChannels,
    PruneTo,
    PruneWeights,
    QuantizeDynamic,
    QuantizeStatic,
    QuantizeWeights,
    Recover,
    Rewind,
    SmoothQuant,
    Train,
    TrainSparse,
)
STEPS: Mapping[str, Callable[..., Rewrite]] = MappingProxyType({s.__name__: s for s in _KNOWN})

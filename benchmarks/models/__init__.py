"""The models the benchmarks measure, by name.

`load(name, sources)` gives one with its data, `network(name, sources)` the network alone, once
`load` has filled the cache.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from torch import nn

from models.model import Batch, Model, Sources

NAMES = ("lite0", "resnet20", "minilm", "gru")

__all__ = ["NAMES", "Batch", "Model", "Sources", "load", "network"]


def load(name: str, sources: Sources) -> Model:
    """A model by name. InvalidInput where its data is absent, MissingExtra where a package is."""
    model: Model = _file(name).load(sources)
    assert model.name == name
    return model


def network(name: str, sources: Sources) -> nn.Module:
    """The network of a model, in eval mode, without its data."""
    found: nn.Module = _file(name).network(sources)
    return found


def _file(name: str) -> ModuleType:
    assert name in NAMES, name
    return importlib.import_module(f"models.{name}")

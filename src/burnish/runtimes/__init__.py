"""Runtimes: export a traced model for one, load it in a worker, see what it can do here.

`Artifact` is `bundle`'s: what is measured is what ships.
"""

from __future__ import annotations

from burnish.bundle import Artifact
from burnish.runtimes._attribution import Attributed, attribute
from burnish.runtimes._program import strided_weights
from burnish.runtimes._runtime import Runtime
from burnish.runtimes._table import available, export, load, runtime

__all__ = [
    "Artifact",
    "Attributed",
    "Runtime",
    "attribute",
    "available",
    "export",
    "load",
    "runtime",
    "strided_weights",
]

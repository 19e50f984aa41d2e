"""Which runtimes there are, and what a loaded artifact can do.

A session is an artifact loaded by its runtime. Each runtime has one private file, imported only
when an artifact of that runtime is loaded (in the worker's process), so that an artifact for
onnxruntime never costs, nor needs, an import of torch.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np

from burnish.bundle._artifact import Artifact, OpTime
from burnish.errors import MissingExtra


class Counter(Protocol):
    """A session's counters while they count; see `_counting`."""

    def run(self, *, counted: bool) -> None:
        """One run; not `counted` to warm up, and where a turn begins (if the runtime can)."""

    def times(self) -> list[OpTime]:
        """Mean seconds per counted run of each kernel, with what it computes; ends the counting."""


class Session(Protocol):
    """An artifact loaded by its runtime."""

    def run(self, inputs: list[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """Flat outputs for the inputs in the artifact's order; valid until the next run."""

    def counting(self, inputs: list[np.ndarray[Any, Any]]) -> AbstractContextManager[Counter]:
        """The runtime's own counters, switched on for runs on these inputs."""


@runtime_checkable
class Preparing(Session, Protocol):
    """A session that makes something of its own for the sizes of its inputs, when it meets them."""

    def prepare(self, inputs: list[np.ndarray[Any, Any]], alive: Callable[[], None]) -> None:
        """Make it now, where it is not made yet; `alive` is called while that lasts."""


@dataclass(frozen=True)
class _Entry:
    module: str  # defines `load(artifact, threads) -> Session`
    package: str
    install: str
    without: tuple[str, ...] = ()  # packages to be taken for absent by the runtime


_TABLE = {
    "eager": _Entry("burnish.bundle._eager", "torch", "pip install torch"),
    "inductor": _Entry("burnish.bundle._inductor", "torch", "pip install torch"),
    "onnxruntime": _Entry("burnish.bundle._onnxruntime", "onnxruntime", "pip install onnxruntime"),
    "openvino": _Entry(
        "burnish.bundle._openvino",
        "openvino",
        "pip install openvino",
        without=("openvino_telemetry",),
    ),
}


def loader(runtime: str) -> Callable[[Artifact, int], Session]:
    """The runtime's `load(artifact, threads)`, with the runtime imported.

    For a process of its own: what the runtime is to do without is marked as absent in sys.modules.
    Raises `MissingExtra`, with the line that installs it, where the runtime is not installed.
    """
    entry = _TABLE[runtime]
    sys.modules.update(dict.fromkeys(entry.without))  # type: ignore[arg-type]
    try:
        importlib.import_module(entry.package)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != entry.package:
            raise
        raise MissingExtra(
            f"{runtime} is not installed; install it with: {entry.install}"
        ) from None
    module = importlib.import_module(entry.module)
    return cast("Callable[[Artifact, int], Session]", module.load)

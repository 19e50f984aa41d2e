"""Runs that are killed: `python -m tests.auto.killed RUNS EXPORTS MOMENT…`, a run for each moment.

A moment is "N" (killed -9 right after the N-th line of the journal), "N.torn" (while that line is
being written), "export:KEY" or "bundle" (with half of the files there), or several with "+" between
them: killed, carried on and killed again. Each run has a process of its own, forked from one that
has loaded everything (much of torch is loaded when it first traces) and has one thread.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from burnish.graph import trace
from burnish.recipe import Store
from tests.auto.made_up import (
    Exports,
    Here,
    MadeUp,
    by_precision,
    goal,
    quietly,
    task,
    trained,
    with_outliers_at_the_input,
)


def run(folder: Path) -> Any:
    """The run that is killed; its ladder is climbed."""
    bench = MadeUp(by_precision(2, 1))
    return quietly(with_outliers_at_the_input(), goal(task(2)), bench, folder), bench


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Tearing:
    """A file whose next line is cut short by death."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def write(self, data: bytes) -> int:
        self.file.write(data[: len(data) // 2])
        die()
        return 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def arm(moment: str, patch: pytest.MonkeyPatch, exports: Exports) -> None:
    """Arrange for the death of this process."""
    if moment == "bundle":
        patch.setattr("burnish.auto._optimize.Bundle.write", die)
    elif moment.startswith("export:"):

        def half(graph: Any, runtime: str, folder: Path, **settings: Any) -> Any:
            artifact = exports(graph, runtime, folder, **settings)
            if folder.parent.name == moment.removeprefix("export:"):
                file = folder / artifact.files[0]
                file.write_bytes(file.read_bytes()[:100])
                die()
            return artifact

        patch.setattr("burnish.auto._workshop.export", half)
    else:
        patch.setattr(Store, "record", _counting(*moment.partition(".")[::2]))


def _counting(number: str, torn: str) -> Callable[[Store, str, Any], None]:
    plain = Store.record

    def record(store: Store, key: str, result: Any) -> None:
        if torn and len(store.events()) + 1 == int(number):
            store._handle = Tearing(store._handle)
        plain(store, key, result)
        if len(store.events()) == int(number):
            die()

    return record


def main(runs: Path, exports: Exports, moments: list[str]) -> None:
    torch.set_num_threads(1)  # a pool of threads would not survive the fork
    patch = pytest.MonkeyPatch()
    patch.setattr("burnish.auto._workshop.export", exports)
    patch.setattr("burnish.auto._search.REFINEMENTS", ("refined",))
    for room in ("_workshop", "_optimize"):
        patch.setattr(f"burnish.auto.{room}.load", Here)
    trained()
    trace(with_outliers_at_the_input(), (task(2).inputs.args[0],))
    for moment in moments:
        signals = []
        for one in moment.split("+"):
            child = os.fork()
            if child == 0:
                arm(one, patch, exports)
                run(runs / moment.replace(":", "-"))
                os._exit(0)
            signals.append(os.WTERMSIG(os.waitpid(child, 0)[1]))
        print(moment, set(signals), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Exports(Path(sys.argv[2])), sys.argv[3:])

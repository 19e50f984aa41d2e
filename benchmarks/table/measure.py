"""What is measured of a row: its answers on all validation data, and its time, in turns with all.

Answers come from the exported artifact in a worker process; the float model's come from torch.
Everything goes through the run folder's journal, so that a run that was ended carries on.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import Model
from models.model import Watch

from burnish.bench import Race, race
from burnish.bundle import Artifact, Worker
from burnish.errors import NoEffect, RuntimeFailed, Unsupported
from burnish.graph import Traced, flatten_call, unflatten
from burnish.recipe import Store
from burnish.runtimes import export
from burnish.train import evaluate
from table.build import Builder
from table.entries import Entry

FAILURES = (NoEffect, Unsupported, RuntimeFailed)  # of one row; anything else ends the run


@dataclass(frozen=True, eq=False)
class Bench:
    """One model's run: its folder, how many threads, how long a race takes."""

    model: Model
    store: Store
    threads: int
    seconds: float
    watch: Watch
    say: Callable[[str], None]

    def baseline(self) -> dict[str, Any]:
        """The float network's answers, by torch."""
        return dict(self.store.once("baseline", lambda: answers(self.model.network, self.model)))

    def row(self, entry: Entry, builder: Callable[[], Builder]) -> dict[str, Any]:
        """A row's file and answers, or why it has none. Made once in the life of the folder."""
        return dict(self.store.once(f"row:{entry.label}", lambda: self._row(entry, builder())))

    def _row(self, entry: Entry, builder: Builder) -> dict[str, Any]:
        self.say(f"{self.model.name}: {entry.label}")
        folder = self.folder(entry)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            made = builder.make(entry)
            artifact = export(made.graph, entry.runtime, folder, precision=entry.precision)
            artifact = artifact.with_options(threads=self.threads)
            artifact.save()
            with Worker(artifact) as worker:
                given = answers(through(worker, builder.traced), self.model, self.watch)
        except FAILURES as error:
            return {"failed": f"{type(error).__name__}: {error}"}
        return {
            "failed": None,
            "size_mb": artifact.size_bytes() / 1e6,
            "int8": list(made.int8),
            "seconds": {name: round(value, 2) for name, value in made.seconds.items()},
            "notes": list(made.notes),
            "answers": given,
        }

    def folder(self, entry: Entry) -> Path:
        """Where a row's artifact lies."""
        return self.store.candidate(entry.label.replace(" ", "-").replace(",", ""))

    def race(self, entries: Sequence[Entry], progress: Callable[[float], None]) -> Race:
        """All rows' artifacts in turns at batch 1."""
        artifacts = {entry.label: Artifact.open(self.folder(entry)) for entry in entries}
        key = f"race:{self.seconds}:{'|'.join(sorted(artifacts))}"
        first = self.model.validation[0].args
        inputs = {
            port.name: tensor[:1].contiguous().numpy()
            for port, tensor in zip(next(iter(artifacts.values())).inputs, first, strict=True)
        }
        work = partial(race, artifacts, inputs, seconds=self.seconds, batch=1, progress=progress)
        return Race.from_json(self.store.once(key, lambda: work().to_json()))


def answers(
    run: Callable[..., Any], model: Model, watch: Watch | None = None
) -> dict[str, list[float]]:
    """One score and one class for each validation sample."""
    classes: list[int] = []

    def noted(*args: Any) -> Any:
        output = run(*args)
        classes.extend(output.argmax(1).tolist())
        return output

    with torch.inference_mode():
        scores = evaluate(noted, model.task(), "validation", watch=watch)
    assert scores.values is not None
    return {"scores": [round(float(value), 6) for value in scores.values], "classes": classes}


def through(worker: Worker, traced: Traced) -> Callable[..., Any]:
    """Call a worker as the network is called."""

    def run(*args: torch.Tensor) -> Any:
        tensors = flatten_call(args, {})
        arrays: Mapping[str, np.ndarray[Any, Any]] = {
            slot.name: tensor.contiguous().numpy()
            for slot, tensor in zip(traced.inputs, tensors, strict=True)
        }
        outputs = [torch.from_numpy(np.array(array)) for array in worker.run(arrays)]
        return unflatten(traced.tree, outputs)

    return run

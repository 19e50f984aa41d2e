"""A progress bar for a training: where it is, the loss, the learning rate, the time left.

`fit(watch=…)` takes any function that wraps an iterable with a title. A `Bar` is one that also
wants to know how the training goes: it runs over all epochs, so that its time left is the
training's, not the epoch's. On a console that is no terminal it shows nothing.

Left out: curves while it runs. The record holds what they are drawn from.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)


class Bar:
    """The bar of one training after another, on `console` or on the error stream."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def __call__(self, items: Iterable[Any], title: str) -> Iterable[Any]:
        """Say what is being done; the items are handed on as they are."""
        if self._progress is not None:
            self._progress.update(self._task, description=title)
        return items

    def begin(self, num_steps: int, done: int) -> None:
        """A training of `num_steps` optimizer steps, of which `done` were done before."""
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4g}, rate {task.fields[rate]:.3g}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task(
            "training", total=num_steps, completed=done, loss=float("nan"), rate=float("nan")
        )
        self._progress.start()

    def step(self, loss: float, rate: float) -> None:
        """One optimizer step more."""
        if self._progress is not None:
            self._progress.update(self._task, advance=1, loss=loss, rate=rate)

    def end(self) -> None:
        """The training is over, or was stopped."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

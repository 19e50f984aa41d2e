"""What a person sees while a search runs: a line for what is done, a bar for what takes time.

Everything goes to the error stream, so that what a program prints stays its own.

Left out: a full-screen display; a log in a file must read as well as a terminal.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)


class Narrator:
    """Progress and plain lines on a console."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text, highlight=False, markup=False)

    def watch(self, items: Iterable[Any], title: str) -> Iterator[Any]:
        """Iterate with a bar; the length is shown where it is known."""
        total = len(items) if isinstance(items, Sized) else None
        with self._bar(MofNCompleteColumn()) as bar:
            task = bar.add_task(title, total=total)
            for item in items:
                yield item
                bar.advance(task)

    @contextlib.contextmanager
    def share(self, title: str) -> Iterator[Callable[[float], None]]:
        """A bar for work that tells the share done, 0 to 1."""
        with self._bar() as bar:
            task = bar.add_task(title, total=1.0)
            yield lambda done: bar.update(task, completed=done)

    @contextlib.contextmanager
    def busy(self, title: str) -> Iterator[None]:
        """A spinner with the time elapsed, for work that tells nothing."""
        with self._bar() as bar:
            bar.add_task(title, total=None)
            yield

    @contextlib.contextmanager
    def doing(self, title: str) -> Iterator[Callable[[str], None]]:
        """A spinner whose text the work changes: what it is at."""
        with self._bar() as bar:
            task = bar.add_task(title, total=None)
            yield lambda what: bar.update(task, description=f"{title}: {what}")

    def _bar(self, *columns: Any) -> Progress:
        return Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            *columns,
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )

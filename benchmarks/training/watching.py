"""What is seen of a benchmark that trains for hours: bars, and a line for each row that is done."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")
console = Console(width=None if sys.stdout.isatty() else 160)


def watch(items: Iterable[T], title: str) -> Iterable[T]:
    """A progress bar around an iterable."""
    return track(items, title, console=console, transient=True)


def say(text: str) -> None:
    """A line."""
    console.print(text, markup=False, highlight=False)

"""Where words go, and how a command ends.

Answers go to standard output, complaints and progress to standard error. Into a pipe goes plain
text without colours, wide enough that no table is folded at 80 columns. An error that Burnish
raises on purpose is one message and an exit code, never a traceback, unless `--debug` asks for it:

    0 done   1 a check failed   2 refused   3 nobody can meet the budget   130 interrupted
"""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from typing import ParamSpec, TextIO

import typer
from rich.console import Console
from rich.text import Text

from burnish.errors import BurnishError, Infeasible

FAILED, REFUSED, INFEASIBLE, INTERRUPTED = 1, 2, 3, 130
PIPE_WIDTH = 120

DEBUG: ContextVar[bool] = ContextVar("debug", default=False)
P = ParamSpec("P")


def output() -> Console:
    """For answers."""
    return _console(sys.stdout)


def complaints() -> Console:
    """For errors and progress."""
    return _console(sys.stderr)


def _console(stream: TextIO) -> Console:
    told = os.environ.get("COLUMNS", "").isdigit()
    width = None if stream.isatty() or told else PIPE_WIDTH
    return Console(file=stream, width=width, soft_wrap=False, highlight=False)


def guarded(resumable: bool = False) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Turn what a command raises into a message and an exit code.

    Args:
        resumable: the same command, given again, carries on; said when it is interrupted.
    """

    def wrap(command: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(command)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                command(*args, **kwargs)
            except KeyboardInterrupt:
                _complain("Stopped.", "yellow")
                if resumable:
                    _complain("What was measured is kept; the same command carries on.", "")
                raise typer.Exit(INTERRUPTED) from None
            except Infeasible as error:
                _tell(error)
                if error.result is not None:
                    output().print(Text(f"The best that was found:\n{error.result}"))
                raise typer.Exit(INFEASIBLE) from None
            except BurnishError as error:
                _tell(error)
                raise typer.Exit(REFUSED) from None

        return run

    return wrap


def _tell(error: BurnishError) -> None:
    if DEBUG.get():
        traceback.print_exception(error, file=sys.stderr)
    _complain(f"Error: {error}", "red")


def _complain(message: str, style: str) -> None:
    complaints().print(Text(message, style=style))

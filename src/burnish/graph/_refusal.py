"""What torch says when it cannot export a model, in words a user can act on.

torch's exceptions are long, end deep inside torch, and are accompanied by a page of graph on
stderr. A refusal of ours names the line of the user's own code, torch's reason, and where the cause
is a size that cannot change, which axis it is and what to do. `quiet` keeps the page away for as
long as an export takes; the user's logging stays as it was.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch

from burnish.errors import Unsupported

_NOISY = ("torch.export", "torch.fx.experimental.symbolic_shapes")
_GRAPH = ("def forward(", "class ")
_OURS = Path(__file__).resolve().parent
_TORCH = Path(torch.__file__).resolve().parent


def refusal(error: Exception, names: Mapping[str, str]) -> Unsupported:
    """The refusal that stands for an error of torch.export.

    Args:
        error: what torch raised.
        names: the user's name of each dynamic axis by torch's.
    """
    reason = str(error).strip().split("\n\n")[0][:600]
    return Unsupported(
        f"torch.export cannot trace this model{user_line(error)}{_advice(str(error), names)}\n"
        f"torch's reason ({type(error).__name__}): {reason}"
    )


def _advice(text: str, names: Mapping[str, str]) -> str:
    violated = re.search(r"Constraints violated \(([^)]*)\)", text)
    if violated is None:
        return ""
    axes = ", ".join(repr(names.get(part.strip(), part.strip())) for part in violated[1].split(","))
    fixed = re.search(r"specialized it to be a constant \((\d+)\)", text)
    what = f"the one size {fixed[1]}" if fixed else "some sizes only"
    return (
        f": it works for {what} of the dynamic axis {axes}. Take sizes from the tensors "
        "(x.shape[0], reshape(-1, …)) instead of writing them out, or declare the axis fixed, as "
        "in Inputs(x, batch_axis=None)"
    )


def user_line(error: BaseException) -> str:
    """The innermost line of code that is neither torch's nor ours: where the user must look."""
    chain: BaseException | None = error
    while chain is not None:
        for frame in reversed(traceback.extract_tb(chain.__traceback__)):
            if not frame.filename.startswith("<") and not _inside(frame.filename):
                return f", at {frame.filename}:{frame.lineno}: {frame.line}"
        chain = chain.__cause__ or chain.__context__
    return ""


def _inside(filename: str) -> bool:
    parents = Path(filename).resolve().parents
    return _OURS in parents or _TORCH in parents


@contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's dumps of a half-traced graph off stderr."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    for logger in loggers:
        logger.addFilter(_drop)
    try:
        with redirect_stderr(_WithoutGraphs(sys.stderr)):
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(_drop)


def _drop(record: logging.LogRecord) -> bool:
    return False


class _WithoutGraphs:
    """A stream that lets everything pass but a printed graph and the line end after it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._dropped = False

    def write(self, text: str) -> int:
        after, self._dropped = self._dropped, text.lstrip().startswith(_GRAPH)
        if self._dropped or (after and text == "\n"):
            return len(text)
        return int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

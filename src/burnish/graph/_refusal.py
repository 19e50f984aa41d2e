"""What torch says when it cannot export a model, in words a user can act on.

torch's exceptions are long, end deep inside torch, and are accompanied by a page of graph on
stderr. A refusal of ours names the line of the user's own code, torch's reason, and where the cause
is a branch on values or a size that cannot change, what to do. `quiet` keeps the page away for as
long as an export takes; the user's logging stays as it was.
"""

from __future__ import annotations

import logging
import re
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch

from burnish.errors import Unsupported

_NOISY = ("torch.export", "torch.fx.experimental.symbolic_shapes")
_GRAPH = ("def forward(self", "class GraphModule(")
# Recurrent layers gather their weights anew in each call; torch takes that for the user's doing.
_RECURRENT = r"The tensor attributes? .*\b_flat_weights\["
_OURS = Path(__file__).resolve().parent
_TORCH = Path(torch.__file__).resolve().parent
_PYTHON = Path(sysconfig.get_path("stdlib")).resolve()


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
    if "data-dependent" in text:
        return (
            ": what it does next depends on the values in a tensor. Compute both ways and choose "
            "with torch.where, or wrap the model so that the choice is made outside"
        )
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
    """The innermost line that is not torch's, Python's or ours: where the user must look."""
    chain: BaseException | None = error
    while chain is not None:
        for frame in reversed(traceback.extract_tb(chain.__traceback__)):
            if not frame.filename.startswith("<") and not _inside(frame.filename):
                return f", at {frame.filename}:{frame.lineno}: {frame.line}"
        chain = chain.__cause__ or chain.__context__
    return ""


def _inside(filename: str) -> bool:
    path = Path(filename).resolve()
    ours = _OURS in path.parents or _TORCH in path.parents
    return ours or (_PYTHON in path.parents and "site-packages" not in path.parts)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's dumps of a half-traced graph off stderr, and its warning about its own LSTM."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    for logger in loggers:
        logger.addFilter(_drop)
    try:
        with redirect_stderr(_WithoutGraphs(sys.stderr)), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=_RECURRENT, category=UserWarning)
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

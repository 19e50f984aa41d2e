"""Every exception Burnish raises on purpose.

What the user can mend is one of these, and its message names the thing, the setting and what to do
next. A mistake of ours is an `assert`. Anything else that escapes is a bug worth reporting.
"""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "BurnishError",
    "Damaged",
    "Diverged",
    "Infeasible",
    "InvalidInput",
    "MissingExtra",
    "NoEffect",
    "RuntimeFailed",
    "Unreliable",
    "Unsupported",
]


class BurnishError(Exception):
    """The base: `except BurnishError` catches whatever Burnish refuses."""


class InvalidInput(BurnishError, ValueError):
    """A model, datum, metric or setting that cannot be used as given."""


class NoEffect(BurnishError):
    """A step that was asked for and changed nothing."""


class Unsupported(BurnishError):
    """Something well-formed that Burnish, or the chosen runtime, cannot do."""


class MissingExtra(BurnishError, ImportError):
    """An optional dependency is not installed; the message holds the line that installs it."""


class Diverged(BurnishError):
    """A training whose loss or weights are no longer finite, or explode: nothing after it counts.

    `step` and `learning_rate` say where it was; `checkpoint` is the file of the last state that was
    good, or None.
    """

    def __init__(
        self, message: str, step: int, learning_rate: float, checkpoint: Path | None = None
    ) -> None:
        super().__init__(message)
        self.step = step
        self.learning_rate = learning_rate
        self.checkpoint = checkpoint


class Infeasible(BurnishError):
    """No candidate meets the budget. `result` is the best that was found; the journal is kept."""

    def __init__(self, message: str, result: object = None) -> None:
        super().__init__(message)
        self.result = result


class Unreliable(BurnishError):
    """A measurement whose spread makes any statement from it worthless."""


class Damaged(BurnishError):
    """A file of ours (journal, bundle, manifest, archive) that is truncated, altered or unsafe."""


class RuntimeFailed(BurnishError):
    """A runtime crashed, hung, or refused an artifact. One candidate fails; the run goes on."""

    def __init__(self, message: str, reason: str = "refused") -> None:
        super().__init__(message)
        self.reason = reason

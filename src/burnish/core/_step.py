"""The verb: a step turns a candidate into another candidate, for a goal.

Structural steps are a `Rewrite`: deciding (`choose`, which may use data, clocks, randomness) is
split from doing (`rewrite`, which may use none). `Rewrite.apply` is the one place where the two
meet and a history entry is written. A `Chain` applies steps in order: `a >> b` is `Chain((a, b))`.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import nn

from burnish.core._candidate import Applied, Candidate, Choices
from burnish.goal import Goal


@runtime_checkable
class Step(Protocol):
    """Anything that makes a candidate out of a candidate. Never mutates its input."""

    def apply(self, candidate: Candidate, goal: Goal) -> Candidate:
        """The new candidate. NoEffect where nothing was changed."""
        ...


class Rewrite(ABC):
    """A step that changes structure; a frozen dataclass whose fields are its settings."""

    @abstractmethod
    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        """Decide; may use data, clocks and randomness (seeded from the goal)."""

    @abstractmethod
    def rewrite(self, model: nn.Module, choices: Choices) -> nn.Module:
        """Do; no data, no clock, no randomness. Never mutates `model`."""

    def apply(self, candidate: Candidate, goal: Goal) -> Candidate:
        """Choose, rewrite, and write it into the history."""
        choices = self.choose(candidate.model, goal)
        model = self.rewrite(candidate.model, choices)
        return candidate.after(model, Applied(type(self).__name__, settings_of(self), choices))

    def __rshift__(self, other: Step) -> Chain:
        return Chain((self,)) >> other


@dataclass(frozen=True)
class Chain:
    """Steps one after another: `a >> b >> c`."""

    steps: tuple[Step, ...]

    def apply(self, candidate: Candidate, goal: Goal) -> Candidate:
        """Apply each step to what the one before it made."""
        for step in self.steps:
            candidate = step.apply(candidate, goal)
        return candidate

    def __rshift__(self, other: Step) -> Chain:
        return Chain((*self.steps, *(other.steps if isinstance(other, Chain) else (other,))))


def settings_of(step: Any) -> dict[str, Any]:
    """The settings of a step as plain JSON: tuples become lists, sets sorted lists."""
    return {field.name: _plain(getattr(step, field.name)) for field in dataclasses.fields(step)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return settings_of(value)
    if isinstance(value, frozenset | set):
        return sorted(_plain(item) for item in value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value

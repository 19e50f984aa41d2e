"""A ratio taken in parts: each is of what the model has then, and what is whole is counted.

`recipe.gradual` asks a step for the part that takes what is gone from one share to another. Where a
ratio is of what the model has now, that is what is missing of what is left.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Self

from burnish.core import Choices


class OfWhatIsLeft:
    """A step with a `ratio` of what the model has, whose plan says what it `saved` of that."""

    ratio: float

    @property
    def share(self) -> float:
        """What is gone in all."""
        return self.ratio

    def part(self, before: float, after: float) -> Self:
        """The step that takes what is gone from one share to another."""
        step: Any = self
        found: Self = dataclasses.replace(step, ratio=1 - (1 - after) / (1 - before))
        return found

    def reached(self, before: float, choices: Choices) -> float:
        """What is gone in all: channels and blocks are whole, so not quite what was asked for."""
        saved: float = choices.plan["saved"]
        return 1 - (1 - before) * (1 - saved)

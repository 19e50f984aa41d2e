"""The settings of a training as one checked value, and how they read as JSON.

What JSON cannot hold (a function that makes an optimizer) is written by its name: enough to see in
a record what was meant, and to notice that a checkpoint was made with another one.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from burnish.errors import InvalidInput
from burnish.train._optimizer import OptimizerFactory, SchedulerFactory, check_optimizer
from burnish.train._precision import Precision
from burnish.train._schedule import Schedule
from burnish.train._tricks import Tricks


@dataclass(frozen=True)
class Plan:
    """All settings of `fit` that say how to train.

    Raises:
        InvalidInput: one that is out of range, or of another kind.
    """

    epochs: int
    learning_rate: float
    optimizer: str | OptimizerFactory
    schedule: Schedule | SchedulerFactory
    weight_decay: float
    precision: Precision
    tricks: Tricks
    seed: int

    def __post_init__(self) -> None:
        if not isinstance(self.epochs, int) or self.epochs < 1:
            raise InvalidInput(f"fit(epochs={self.epochs}): a whole number, at least 1")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise InvalidInput(f"fit(learning_rate={self.learning_rate}): a finite number above 0")
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise InvalidInput(f"fit(weight_decay={self.weight_decay}): a finite number, 0 or more")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise InvalidInput(f"fit(seed={self.seed!r}): a whole number, 0 or more")
        check_optimizer(self.optimizer)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; functions by name."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}


def as_schedule(value: Schedule | SchedulerFactory | str | Mapping[str, Any]) -> Any:
    """A schedule from itself, from its kind, or from the settings a history holds."""
    if isinstance(value, str):
        return Schedule(value)
    if isinstance(value, Mapping):
        return Schedule(**value)
    if not isinstance(value, Schedule) and not callable(value):
        raise InvalidInput(
            f"fit(schedule=…) is a {type(value).__name__}: a name, a burnish.train.Schedule, or a "
            "function of the optimizer and the number of steps that makes a torch scheduler"
        )
    return value


def name_of(function: Any) -> str:
    """A function or class by its name, a `functools.partial` with what it fixes."""
    if isinstance(function, functools.partial):
        fixed = ", ".join(f"{name}={value!r}" for name, value in function.keywords.items())
        return f"{name_of(function.func)}({fixed})"
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return name_of(value) if callable(value) else value

"""What happened in a training, as plain JSON: enough to draw its curves and to repeat it.

One record an epoch, with the loss of every optimizer step in it: floats in JSON read back bit for
bit, so two trainings can be compared exactly, and a resumed one with an uninterrupted one.

Left out: gradients and weights by layer, which are a profile's business.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from torch import nn

from burnish.errors import Damaged
from burnish.files import write_text

Kept = Literal["last", "average", "best"]
SCHEMA = 1


@dataclass(frozen=True)
class EpochRecord:
    """One epoch.

    Args:
        epoch: its number, from 0.
        losses: the sum of all parts at each optimizer step.
        parts: the mean of each part over the epoch's steps.
        learning_rate: at its first and at its last step.
        seconds: what it took, validation included.
        skipped: steps skipped because a float16 gradient overflowed.
        gradient_norm: mean over the steps, before clipping; None where nothing was clipped.
        validation: the task's metric on the validation data; None where nobody asked.
    """

    epoch: int
    losses: tuple[float, ...]
    parts: Mapping[str, float]
    learning_rate: tuple[float, float]
    seconds: float
    skipped: int = 0
    gradient_norm: float | None = None
    validation: float | None = None


@dataclass(frozen=True)
class TrainingRecord:
    """A training.

    Args:
        settings: all settings of `fit` and of the objective, as plain JSON.
        num_parameters: how many numbers were trained, those of the objective's modules included.
        num_processes: that shared the batches.
        device: "cpu", "cuda:0", …
        epochs: one record each, in order.
        kept: whose weights `fit` gave back: of the last step, the moving average, the best epoch.
        stopped: why it ended.
    """

    settings: Mapping[str, Any]
    num_parameters: int
    num_processes: int
    device: str
    epochs: tuple[EpochRecord, ...]
    kept: Kept
    stopped: str

    @property
    def num_steps(self) -> int:
        """Optimizer steps, skipped ones included."""
        return sum(len(epoch.losses) for epoch in self.epochs)

    @property
    def skipped(self) -> int:
        """Optimizer steps that were skipped because a float16 gradient overflowed."""
        return sum(epoch.skipped for epoch in self.epochs)

    @property
    def seconds(self) -> float:
        """What all epochs took."""
        return sum(epoch.seconds for epoch in self.epochs)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"schema": SCHEMA, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `to_json` gave. Damaged where a field is missing or of another schema."""
        try:
            fields = dict(data)
            if fields.pop("schema") != SCHEMA:
                raise Damaged(f"a training record of schema {data['schema']}, not {SCHEMA}")
            epochs = tuple(epoch_from_json(epoch) for epoch in fields.pop("epochs"))
            return cls(epochs=epochs, **fields)
        except (KeyError, TypeError) as error:
            raise Damaged(f"a training record lacks a field or has one too many: {error}") from None

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        write_text(path, json.dumps(self.to_json(), allow_nan=False))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote. Damaged where it does not read."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise Damaged(f"the training record {path} does not read: {error}") from None
        return cls.from_json(data)


def epoch_from_json(data: Mapping[str, Any]) -> EpochRecord:
    """An epoch as `dataclasses.asdict` gave it; JSON has made lists of its tuples."""
    first, last = data["learning_rate"]
    changes = {"losses": tuple(data["losses"]), "learning_rate": (first, last)}
    return EpochRecord(**{**data, **changes})


@dataclass(frozen=True, eq=False)
class Fitted:
    """What a training gave: the model, and the record of how it got there."""

    model: nn.Module
    record: TrainingRecord


class Tally:
    """An epoch's record while the epoch goes on."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.skipped = 0
        self._parts: dict[str, float] = {}
        self._norms: list[float] = []

    def add(
        self, parts: Mapping[str, float], rate: float, norm: float | None, skipped: bool
    ) -> None:
        """An optimizer step."""
        self.losses.append(sum(parts.values()))
        self.rates.append(rate)
        self.skipped += skipped
        for name, value in parts.items():
            self._parts[name] = self._parts.get(name, 0.0) + value
        if norm is not None and not skipped:
            self._norms.append(norm)

    def record(self, epoch: int, seconds: float, validation: float | None) -> EpochRecord:
        """The epoch, at its end."""
        return EpochRecord(
            epoch=epoch,
            losses=tuple(self.losses),
            parts={name: total / len(self.losses) for name, total in self._parts.items()},
            learning_rate=(self.rates[0], self.rates[-1]),
            seconds=seconds,
            skipped=self.skipped,
            gradient_norm=sum(self._norms) / len(self._norms) if self._norms else None,
            validation=validation,
        )

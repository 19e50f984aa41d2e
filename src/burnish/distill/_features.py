"""A signal on features: what a layer of the student should take over from a layer of the teacher.

A `FeatureSignal` says which layers it listens to (`taps`), grows what it has to learn for itself
from their shapes (`build`: an adapter, variances, a memory of negatives), and gives an unweighted
loss (`loss`). `OneLayer` is what all of ours share: one tap, and loss in float32 at least with the
teacher detached. Several layers are several signals.

An adapter is only ever called, `adapter(…)`: whoever trains may hand a wrapped one.

Left out: features of several processes brought together. Relations between samples, and negatives,
are those of the batch a process sees.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import nn

from burnish.distill._adapter import check_positions
from burnish.distill._setting import Setting, check_setting
from burnish.distill._tap import Tap
from burnish.distill._wide import wide
from burnish.errors import InvalidInput
from burnish.train import Moment


class FeatureSignal(Protocol):
    """What distillation asks of a signal on features."""

    @property
    def name(self) -> str:
        """What its part of the loss is called in the record."""
        ...

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The layers it listens to."""
        ...

    @property
    def weight(self) -> Setting:
        """What its loss is multiplied by; the loss itself is unweighted."""
        ...

    @property
    def needs_labels(self) -> bool:
        """Whether `loss` reads the target."""
        ...

    def build(
        self, student_shapes: Sequence[torch.Size], teacher_shapes: Sequence[torch.Size]
    ) -> nn.Module | None:
        """What it learns itself, from the shape at each tap; InvalidInput where they do not fit."""
        ...

    def loss(
        self,
        student_features: Sequence[torch.Tensor],
        teacher_features: Sequence[torch.Tensor],
        adapter: nn.Module | None,
        target: object,
        moment: Moment,
    ) -> torch.Tensor:
        """A scalar, from the feature [N, C, *positions] at each tap."""
        ...


@dataclass(frozen=True)
class OneLayer(ABC):
    """A signal between one layer of the student and one of the teacher."""

    kind: ClassVar[str]
    needs_labels: ClassVar[bool] = False

    tap: Tap
    weight: Setting = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.tap, Tap):
            raise InvalidInput(
                f"{type(self).__name__}({self.tap!r}): give a Tap, as "
                f"{type(self).__name__}(Tap('layer3'))"
            )
        check_setting(type(self).__name__, "weight", self.weight, zero=True)

    @property
    def name(self) -> str:
        """The kind of signal and the layers, as "hint layer2 from layer3"."""
        return f"{self.kind} {self.tap}"

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The one tap."""
        return (self.tap,)

    def build(
        self, student_shapes: Sequence[torch.Size], teacher_shapes: Sequence[torch.Size]
    ) -> nn.Module | None:
        """What it learns itself, or None.

        Raises:
            InvalidInput: shapes the signal cannot compare.
        """
        (student,), (teacher,) = student_shapes, teacher_shapes
        try:
            return self._build(student, teacher)
        except InvalidInput as error:
            raise InvalidInput(f"{self.name}: {error}") from error

    def loss(
        self,
        student_features: Sequence[torch.Tensor],
        teacher_features: Sequence[torch.Tensor],
        adapter: nn.Module | None,
        target: object,
        moment: Moment,
    ) -> torch.Tensor:
        """The unweighted loss, a scalar in float32 at least.

        Raises:
            InvalidInput: features the signal cannot compare.
        """
        (student,), (teacher,) = student_features, teacher_features
        try:
            return wide(self._loss)(student, teacher, adapter)
        except InvalidInput as error:
            raise InvalidInput(f"{self.name}: {error}") from error

    def _build(self, student: torch.Size, teacher: torch.Size) -> nn.Module | None:
        return None

    @abstractmethod
    def _loss(
        self, student: torch.Tensor, teacher: torch.Tensor, adapter: nn.Module | None
    ) -> torch.Tensor: ...

    def _tokens(self, shape: torch.Size) -> bool:
        return self.tap.has_tokens(len(shape))

    def _check_positions(self, student: torch.Size, teacher: torch.Size) -> None:
        check_positions(student, teacher, tokens=self._tokens(student))

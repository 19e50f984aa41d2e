"""Teachers: who they are, and the frozen copies that answer for them.

A teacher is copied once, put in eval mode and cut off from gradients, so that nothing moves it
while the student trains: the user's module stays as it is, and a model may be its own teacher. It
runs under `no_grad`, in the precision the student is trained in. Before the training it answers the
example call twice (`_tryout`): a second answer unlike the first, or a buffer that was written,
means that a part of it is in train mode whatever its flags say.

Several teachers either all speak (each signal's loss is the weighted mean over them; for KD that
is learning from the weighted mean of their probabilities), or for each row the one speaks whose
largest probability is highest.

`SelfTeacher` is the student's own moving average over the steps (Tarvainen and Valpola 2017, *Mean
teachers*), begun as a copy of it: average = decay * average + (1 - decay) * student, with
decay at most (1 + step) / (10 + step), so that the first steps are soon forgotten.

Left out: teachers behind a runtime's artifact; another normalisation of the inputs for a teacher
(wrap it: `nn.Sequential(Normalize(…), teacher)`); weights of the teachers that are learned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from burnish.core import copied_model, model_hash
from burnish.distill._tap import Tap, tapped
from burnish.errors import InvalidInput, Unsupported
from burnish.graph import Traced, set_mode

CHOICES = ("weights", "confidence")


@dataclass(frozen=True, eq=False)
class Teacher:
    """One of several teachers.

    Args:
        model: called as the student is; left alone.
        weight: its share among the teachers, relative to the sum of all weights.

    Raises:
        InvalidInput: what is no module; a weight that is not finite and above 0.
    """

    model: nn.Module
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise InvalidInput(
                f"the teacher is a {type(self.model).__name__}: give an nn.Module, called as the "
                "student is (load an exported one with the weights of its original)"
            )
        if not (self.weight > 0 and math.isfinite(self.weight)):
            raise InvalidInput(f"Teacher(weight={self.weight!r}): a finite number above 0")


@dataclass(frozen=True)
class SelfTeacher:
    """The student's own moving average as its teacher.

    Args:
        decay: of the average, each optimizer step; 0 ≤ decay < 1.

    Raises:
        InvalidInput: a decay outside that.
    """

    decay: float = 0.999

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise InvalidInput(f"SelfTeacher(decay={self.decay!r}): at least 0 and below 1")


Teachers = nn.Module | Teacher | SelfTeacher | Sequence[nn.Module | Teacher]


class Average(nn.Module):
    """A moving average of a student, in eval mode; its state is in the checkpoints of `fit`."""

    last: torch.Tensor

    def __init__(self, student: nn.Module, decay: float) -> None:
        super().__init__()
        self.model = frozen(student, "student")
        self.decay = decay
        self.register_buffer("last", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def follow(self, student: nn.Module, step: int) -> None:
        """Take in the student's weights, once for each optimizer step; its buffers as they are."""
        if step == int(self.last):
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        for mine, its in zip(self.model.parameters(), student.parameters(), strict=True):
            mine.lerp_(its.to(mine.dtype), 1 - decay)
        for kept, now in zip(self.model.buffers(), student.buffers(), strict=True):
            kept.copy_(now)
        self.last.fill_(step)


class Panel:
    """The frozen copies of one or several teachers."""

    def __init__(self, given: Teachers, combine: str, student: nn.Module) -> None:
        if combine not in CHOICES:
            raise InvalidInput(f"combine={combine!r}: one of {', '.join(map(repr, CHOICES))}")
        self.by_confidence = combine == "confidence"
        self.average: Average | None = None
        self.weights: tuple[float, ...] = (1.0,)
        if isinstance(given, SelfTeacher):
            self.average = Average(student, given.decay)
            self.copies = [self.average.model]
        else:
            teachers = listed(given)
            self.copies = [
                frozen(teacher.model, who)
                for teacher, who in zip(teachers, _names(len(teachers)), strict=True)
            ]
            total = sum(teacher.weight for teacher in teachers)
            self.weights = tuple(teacher.weight / total for teacher in teachers)
            if self.by_confidence and len(set(self.weights)) > 1:
                raise InvalidInput(
                    "combine='confidence' lets one teacher speak for each sample, and gives their "
                    "weights nothing to do: leave the weights at 1, or combine='weights'"
                )
        if self.by_confidence and len(self.copies) == 1:
            raise InvalidInput("combine='confidence' needs several teachers, and there is one")
        self.names = _names(len(self.copies))

    @property
    def shares(self) -> tuple[float, ...]:
        """What each set of logits to learn from counts for."""
        return (1.0,) if self.by_confidence else self.weights

    def hashes(self) -> tuple[str, ...]:
        """What each teacher is known by: a hash of its class and weights."""
        return tuple(model_hash(model) for model in self.copies)

    def to(self, device: torch.device) -> None:
        """Move the teachers to where the student is."""
        for model in self.copies:
            model.to(device)

    def ask(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], taps: Sequence[Tap]
    ) -> tuple[list[Any], dict[Tap, torch.Tensor]]:
        """Each teacher's output, and what the taps saw in the first of them."""
        first, *others = self.copies
        assert not any(model.training for model in self.copies), "a teacher left eval mode"
        with torch.no_grad():
            with tapped(first, taps, "teacher") as seen:
                outputs = [first(*args, **kwargs)]
            outputs += [model(*args, **kwargs) for model in others]
        return outputs, seen


def listed(given: nn.Module | Teacher | Sequence[nn.Module | Teacher]) -> tuple[Teacher, ...]:
    """One or several teachers as a tuple of `Teacher`. InvalidInput where there is none."""
    several = given if isinstance(given, list | tuple) else (given,)
    teachers = tuple(one if isinstance(one, Teacher) else Teacher(one) for one in several)
    if not teachers:
        raise InvalidInput("distil from at least one teacher: the list of teachers is empty")
    return teachers


def frozen(model: nn.Module, who: str) -> nn.Module:
    """A deep copy in eval mode without gradients. Unsupported, naming `who`, without a copy."""
    try:
        copied = copied_model(model)
    except Exception as error:
        raise Unsupported(
            f"the {who} cannot be copied ({type(error).__name__}: {error}): distillation works on "
            "a copy so that yours stays as it is. Call it once under torch.no_grad() if it "
            "computes its weights (weight_norm does), or take out what is no part of the network"
        ) from error
    copied = set_mode(copied, False, share=True) if isinstance(copied, Traced) else copied.eval()
    return copied.requires_grad_(False)


def most_confident(logits: Sequence[torch.Tensor]) -> torch.Tensor:
    """Row by row the logits of the teacher whose largest probability is highest.

    Args:
        logits: one [..., classes] for each teacher, of equal shape; the first wins a tie.

    Raises:
        InvalidInput: unequal shapes, or a single class, which has no probabilities to compare.
    """
    shapes = [list(one.shape) for one in logits]
    if any(shape != shapes[0] for shape in shapes) or shapes[0][-1] < 2:
        raise InvalidInput(
            f"the teachers' logits have the shapes {', '.join(map(str, shapes))}: combine="
            "'confidence' compares their probabilities row by row, so they must be equal, with two "
            "classes at least; use combine='weights'"
        )
    stacked = torch.stack(list(logits))
    best = stacked.float().softmax(-1).amax(-1).argmax(0)
    return stacked.gather(0, best[None, ..., None].expand(1, *stacked.shape[1:]))[0]


def _names(num: int) -> tuple[str, ...]:
    return ("teacher",) if num == 1 else tuple(f"teacher {index + 1}" for index in range(num))

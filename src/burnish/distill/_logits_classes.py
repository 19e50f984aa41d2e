"""Teacher and student with different classes: compare those that both have.

Both lists of classes are named, in the order of the logits. The columns of the common classes are
picked from both, so that each softmax is over those alone: the teacher's opinion given that it is
one of them. Labels of a class the teacher does not know become "no label".

Left out: several of the teacher's classes that are one of the student's (sum their probabilities
in a teacher of your own), and matching names that are spelled differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from burnish.distill._logits import LogitSignal, checked, labels
from burnish.distill._outputs import NO_LABEL
from burnish.distill._setting import Setting
from burnish.errors import InvalidInput
from burnish.train import Moment

SHOWN = 3


@dataclass(frozen=True)
class CommonClasses:
    """A signal on the classes that student and teacher share.

    Args:
        signal: what compares them.
        student: the names of the student's classes, in the order of its logits.
        teacher: the same of the teacher's.

    Raises:
        InvalidInput: no common class, or a name that occurs twice.
    """

    signal: LogitSignal
    student: tuple[str, ...]
    teacher: tuple[str, ...]

    def __post_init__(self) -> None:
        for role in ("student", "teacher"):
            names = tuple(getattr(self, role))
            object.__setattr__(self, role, names)
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise InvalidInput(f"CommonClasses({role}=…) names {twice!r} twice")
        if not self._columns()[0]:
            raise InvalidInput(
                f"CommonClasses: no common classes among the student's {_some(self.student)} and "
                f"the teacher's {_some(self.teacher)}: names must be equal to the letter"
            )

    @property
    def name(self) -> str:
        """The signal's."""
        return self.signal.name

    @property
    def weight(self) -> Setting:
        """The signal's."""
        return self.signal.weight

    @property
    def needs_labels(self) -> bool:
        """As the signal."""
        return self.signal.needs_labels

    def loss(
        self, student: torch.Tensor, teacher: torch.Tensor, target: Any, moment: Moment
    ) -> torch.Tensor:
        """The signal's, of the common classes."""
        ours, theirs = self._columns()
        of_student = _picked("student", student, self.student, ours)
        of_teacher = _picked("teacher", teacher, self.teacher, theirs)
        if self.needs_labels and target is not None:
            target = _renumbered(target, student, ours)
        return self.signal.loss(of_student, of_teacher, target, moment)

    def _columns(self) -> tuple[list[int], list[int]]:
        """Where the common classes lie, in the student's order."""
        place = {name: column for column, name in enumerate(self.teacher)}
        pairs = [(i, place[name]) for i, name in enumerate(self.student) if name in place]
        return [ours for ours, _ in pairs], [theirs for _, theirs in pairs]


def _picked(
    role: str, logits: torch.Tensor, names: tuple[str, ...], columns: list[int]
) -> torch.Tensor:
    values = checked("CommonClasses", role, logits)
    if values.dim() < 2 or values.shape[-1] != len(names):
        raise InvalidInput(
            f"CommonClasses: the {role} gives {list(values.shape)}, and {len(names)} classes of "
            f"the {role} are named ({_some(names)}): one for each output, classes last"
        )
    return values.index_select(-1, torch.tensor(columns, device=values.device))


def _renumbered(target: Any, logits: torch.Tensor, columns: list[int]) -> torch.Tensor:
    """The target in numbers of common classes; `NO_LABEL` for the others."""
    classes = labels("CommonClasses", target, logits)
    table = torch.full((logits.shape[-1] + 1,), NO_LABEL, device=classes.device)
    table[columns] = torch.arange(len(columns), device=classes.device)
    return table[classes.where(classes != NO_LABEL, logits.shape[-1])].reshape(target.shape)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more

"""What every loss on outputs shares: the form of a signal, and the check of what it compares.

Two tensors of one shape are compared, the student's and the teacher's; the teacher's is taken as a
constant. They are brought to float32 first, whatever the model computes in (float64 stays float64):
in half precision a softmax at a temperature of 100 has few digits left, and a logarithm of a
probability that underflowed is minus infinity. Gradients come back in the student's own dtype.

Classes lie on the last axis, [N, C] or [N, L, C]; each of the N or N * L rows is one distribution,
and a loss is averaged over rows. With four dimensions and more nothing tells the class axis of
[N, C, H, W] from the last, so those are refused rather than softened along the wrong one.

Left out: a mask of rows that do not count (padding): select the rows before the call. Classes
masked by a logit of minus infinity: leave their columns out.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from burnish.distill._outputs import NO_LABEL
from burnish.distill._setting import Setting
from burnish.distill._wide import widened
from burnish.errors import InvalidInput
from burnish.train import Moment


class LogitSignal(Protocol):
    """A loss between the student's output and the teacher's, for `distill`."""

    @property
    def name(self) -> str:
        """What its part of the loss is called in the training record."""
        ...

    @property
    def weight(self) -> Setting:
        """What its loss is multiplied by."""
        ...

    @property
    def needs_labels(self) -> bool:
        """Whether its loss reads the target."""
        ...

    def loss(
        self, student: torch.Tensor, teacher: torch.Tensor, target: Any, moment: Moment
    ) -> torch.Tensor:
        """The scalar loss, not yet weighted; `target` is None where a batch has none."""
        ...


def checked(who: str, role: str, output: Any) -> torch.Tensor:
    """An output at float32 at least. InvalidInput where it is no tensor of floats."""
    if not isinstance(output, torch.Tensor):
        raise InvalidInput(
            f"{who}: the {role}'s output is a {type(output).__name__}, not a tensor: pick the "
            "logits out of it"
        )
    if not output.is_floating_point():
        raise InvalidInput(
            f"{who}: the {role}'s output is {output.dtype} of shape {list(output.shape)}: logits "
            "are floating-point numbers, not classes already chosen"
        )
    return widened(output)


def outputs(
    who: str, student: torch.Tensor, teacher: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both outputs, checked against each other, of any one shape; the teacher's a constant.

    Raises:
        InvalidInput: no tensors of floats, no samples, shapes that differ.
    """
    ours, theirs = checked(who, "student", student), checked(who, "teacher", teacher).detach()
    if ours.shape != theirs.shape:
        raise InvalidInput(f"{who}: {_mismatch(list(ours.shape), list(theirs.shape))}")
    if not ours.numel():
        raise InvalidInput(f"{who}: outputs of shape {list(ours.shape)} hold no sample")
    return ours, theirs


def rows(
    who: str, student: torch.Tensor, teacher: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both logits as [rows, C], checked; the teacher's a constant.

    Raises:
        InvalidInput: as `outputs`; other than two or three dimensions; fewer than two classes.
    """
    ours, theirs = outputs(who, student, teacher)
    shape = list(ours.shape)
    if ours.dim() > 3:
        raise InvalidInput(
            f"{who}: logits of shape {shape} may have their classes on any axis: bring them to "
            "[rows, classes], as logits.movedim(1, -1).flatten(0, -2) does for classes on axis 1"
        )
    if ours.dim() < 2 or shape[-1] < 2:
        raise InvalidInput(
            f"{who}: logits of shape {shape} have no two classes on their last axis, and the "
            "softmax of a single one is always 1: for yes-or-no outputs use "
            "binary_distillation_loss, for numbers regression_distillation_loss"
        )
    return ours.flatten(0, -2), theirs.flatten(0, -2)


def labels(who: str, target: Any, logits: torch.Tensor) -> torch.Tensor:
    """The class of each row, int64 [rows]; `NO_LABEL` where a row has none.

    Raises:
        InvalidInput: no target, no class indices, another shape than the logits', classes that the
            logits do not have.
    """
    if target is None:
        raise InvalidInput(
            f"{who} needs labels, and this batch has none: for unlabelled data use a signal that "
            "reads the teacher alone, as KD, ReverseKL, JensenShannon, DIST or LogitMSE"
        )
    if (
        not isinstance(target, torch.Tensor)
        or target.is_floating_point()
        or target.is_complex()
        or target.dtype == torch.bool
    ):
        got = target.dtype if isinstance(target, torch.Tensor) else type(target).__name__
        raise InvalidInput(
            f"{who}: the target is {got}, and a tensor of class indices is needed: mixed or "
            "smoothed labels do not say which class is the target"
        )
    if target.shape != logits.shape[:-1]:
        raise InvalidInput(
            f"{who}: the target has shape {list(target.shape)}, and logits of shape "
            f"{list(logits.shape)}, classes last, need {list(logits.shape[:-1])}"
        )
    found, classes = target.flatten().long(), logits.shape[-1]
    wrong = found[(found != NO_LABEL) & ((found < 0) | (found >= classes))]
    if wrong.numel():
        raise InvalidInput(
            f"{who}: the target holds class {int(wrong[0])}, and the logits have {classes} "
            f"classes, 0 to {classes - 1} ({NO_LABEL} says that a row has no label)"
        )
    return found


def _mismatch(ours: list[int], theirs: list[int]) -> str:
    said = f"the student gives {ours} and the teacher {theirs}"
    if len(ours) != len(theirs):
        return f"{said}, {len(ours)} dimensions against {len(theirs)}: bring them to one shape"
    if ours[:1] != theirs[:1]:
        return f"{said}, {ours[0]} samples against {theirs[0]}: both must see the same batch"
    if ours[:-1] != theirs[:-1]:
        return f"{said}: they differ before the last axis; both must see the same batch"
    return (
        f"{said}, {ours[-1]} outputs a row against {theirs[-1]}: where these are classes of which "
        "both have some, name them with CommonClasses(signal, student=…, teacher=…)"
    )

"""How a student's feature is brought into the shape of the teacher's.

Channels: an `Adapter` projects the student's onto the teacher's, alike at every position: a 1x1
convolution for maps, a linear layer for vectors and sequences. It is grown only where the widths
differ, is trained with the student, and is thrown away with the teacher.

Positions: along each axis the larger of the two is brought down to the smaller by adaptive average
pooling. Nothing is interpolated up, which would have the student learn what the teacher never saw.
Token sequences of two lengths are refused: their tokens do not correspond (a class token in front,
another tokenizer), and averages of neighbours would not either.

Left out: attention masks. Padded tokens count like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from burnish.errors import InvalidInput

CONVOLUTIONS: Mapping[int, Callable[..., nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
POOLS: Mapping[int, Callable[..., torch.Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}


class Adapter(nn.Module):
    """A learned affine projection of channels, [N, in, *positions] to [N, out, *positions]."""

    def __init__(self, num_in: int, num_out: int, num_positions: int) -> None:
        super().__init__()
        self.is_linear = num_positions not in CONVOLUTIONS
        self.project: nn.Module = (
            nn.Linear(num_in, num_out)
            if self.is_linear
            else CONVOLUTIONS[num_positions](num_in, num_out, kernel_size=1)
        )

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        """The projected feature."""
        projected: torch.Tensor
        if self.is_linear:
            projected = self.project(feature.movedim(1, -1)).movedim(-1, 1)
        else:
            projected = self.project(feature)
        return projected


def adapter(student: Sequence[int], teacher: Sequence[int]) -> Adapter | None:
    """What the student's shape [N, C, *positions] needs for the teacher's channels, if anything."""
    if student[1] == teacher[1]:
        return None
    return Adapter(student[1], teacher[1], len(student) - 2)


def check_samples(student: torch.Tensor, teacher: torch.Tensor, at_least: int = 1) -> None:
    """InvalidInput where two features are not of the same, and of enough, samples."""
    if len(student) != len(teacher):
        raise InvalidInput(
            f"{len(student)} samples in the student's feature {list(student.shape)} and "
            f"{len(teacher)} in the teacher's {list(teacher.shape)}: both come from one batch, "
            "samples along axis 0 (a tap says where they are, as Tap(…, batch_axis=1))"
        )
    if len(student) < at_least:
        raise InvalidInput(
            f"a batch of {len(student)} has no {'pair' if at_least == 2 else 'triple'} of "
            f"samples to relate: give batches of {at_least} or more (drop_last=True where only the "
            "last one is short)"
        )


def check_positions(student: Sequence[int], teacher: Sequence[int], *, tokens: bool) -> None:
    """InvalidInput where two shapes [N, C, *positions] cannot be compared position by position.

    Args:
        student: shape of the student's feature.
        teacher: shape of the teacher's.
        tokens: whether the positions are tokens, which correspond one to one or not at all.
    """
    mine, other = list(student[2:]), list(teacher[2:])
    if len(mine) != len(other) or len(mine) > max(POOLS):
        raise InvalidInput(
            f"the student's feature has {_named(student)} and the teacher's {_named(teacher)}: "
            "position by position only features with equally many axes compare (3 at most, beside "
            "samples and channels); tap layers of one kind, for example both after pooling"
        )
    if tokens and mine != other:
        raise InvalidInput(
            f"the student's feature is a sequence of {mine[0]} and the teacher's of {other[0]}, "
            "whose tokens do not correspond: tap layers after pooling (a series of a "
            "one-dimensional convolution, which may be pooled, is Tap(…, channel_axis=1))"
        )


def same_positions(
    student: torch.Tensor, teacher: torch.Tensor, *, tokens: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both features [N, C, *positions] with the smaller number of positions along each axis.

    Raises:
        InvalidInput: as `check_positions`.
    """
    check_positions(student.shape, teacher.shape, tokens=tokens)
    sizes = [min(pair) for pair in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    return _pooled(student, sizes), _pooled(teacher, sizes)


def vectors(feature: torch.Tensor) -> torch.Tensor:
    """One vector per sample, [N, C]: the mean over all positions."""
    return feature if feature.dim() == 2 else feature.flatten(2).mean(dim=2)


def _pooled(feature: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    if list(feature.shape[2:]) == sizes:
        return feature
    return POOLS[len(sizes)](feature, sizes)


def _named(shape: Sequence[int]) -> str:
    """A shape in words: channels, and the sizes of the positions."""
    sizes = "x".join(map(str, shape[2:]))
    return f"{shape[1]} channels at {sizes} positions" if sizes else f"{shape[1]} channels alone"

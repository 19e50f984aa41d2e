"""What stands on an axis of a tensor: labelled channels, or a reason why there are none.

An axis with channels is an array of ids, one for each position; an id that stands at several
positions (a channel's image, flattened) takes all of them along. An axis whose size is the batch
times a number of channels, as attention folds them, is `Tiled`: its ids come again for each sample.
All other axes are `Opaque`: pixels, samples, time, the values of an input. A channel that meets one
must stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Opaque:
    """No channels, because of `reason`: what a channel that meets it is told."""

    reason: str


@dataclass(frozen=True, eq=False)
class Tiled:
    """Ids that repeat along an axis of dynamic size, innermost."""

    ids: Ids


Axis = Ids | Tiled | Opaque
Value = tuple[Axis, ...]  # of one tensor
Values = Value | list[Value]  # of a node: one tensor's, or those of several

ONE = Opaque("it has size 1")


def is_ids(axis: Axis) -> TypeGuard[Ids]:
    """Whether the axis has channels at fixed positions."""
    return isinstance(axis, np.ndarray)


def ids_of(axis: Axis) -> Ids:
    """The ids on an axis; none on an opaque one."""
    if isinstance(axis, Opaque):
        return np.empty(0, np.int64)
    return axis.ids if isinstance(axis, Tiled) else axis


def same_for_all(sizes: Any) -> bool:
    """Whether a size is 1, which stretches to whatever it meets."""
    return isinstance(sizes, int) and sizes == 1

"""The book of channels: who is joined with whom, who must stay and why, who is some layer's own.

Ids are numbers handed out in order. Joining and freezing are only written down; `settle` sorts all
ids into classes at once, the connected components of what was joined. A class is the smallest thing
that can be removed: all its positions, in all tensors, or none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from burnish.graph._channels.axis import Axis, Ids, Opaque, Tiled, ids_of


@dataclass(frozen=True, eq=False)
class Settled:
    """Every id's class; by class the layers that make it, and why it must stay.

    `makers` and `reasons` hold each answer once, `made` and `kept` [classes] which of them is a
    class's; 0 is that nothing makes it, and that it may go.
    """

    class_of: Ids
    made: Ids
    makers: tuple[tuple[str, ...], ...]
    kept: Ids
    reasons: tuple[str | None, ...]

    def free(self, ids: Ids) -> list[int]:
        """The different classes of `ids` that may be removed."""
        classes = np.unique(self.class_of[ids])
        found: list[int] = classes[(self.made[classes] > 0) & (self.kept[classes] == 0)].tolist()
        return found


class Ledger:
    """Hands out ids and writes down what is known about them."""

    def __init__(self) -> None:
        self._count = 0
        self._pairs: list[tuple[Ids, Ids]] = []
        self._made: list[tuple[Ids, str]] = []
        self._frozen: list[tuple[Ids, str]] = []

    def fresh(self, size: int) -> Ids:
        """New ids for an axis."""
        start, self._count = self._count, self._count + size
        return np.arange(start, self._count, dtype=np.int64)

    def join(self, one: Ids, other: Ids) -> None:
        """Each id of one lives or dies with its like in the other; shapes broadcast."""
        one, other = np.broadcast_arrays(one, other)
        self._pairs.append((one.ravel(), other.ravel()))

    def join_rows(self, rows: Ids) -> Ids:
        """Join all ids of each row of [rows, columns]; gives one id for each row."""
        first = np.ascontiguousarray(rows[:, 0])
        if rows.shape[1] > 1:
            self.join(rows[:, 1:], first[:, None])
        return first

    def make(self, axis: Axis, layer: str) -> None:
        """A layer makes these channels: without them it is a smaller layer."""
        self._made.append((ids_of(axis), layer))

    def freeze(self, axis: Axis, reason: str) -> None:
        """These must stay."""
        ids = ids_of(axis)
        if ids.size:
            self._frozen.append((ids, reason))

    def couple(self, one: Axis, other: Axis) -> Axis:
        """Two axes that meet position by position; gives the one that has channels.

        Where only one has, its channels must stay, for the reason the other has none.
        """
        if isinstance(one, Opaque):
            self.freeze(other, one.reason)
            return other
        if isinstance(other, Opaque):
            self.freeze(one, other.reason)
            return one
        if isinstance(one, Tiled) != isinstance(other, Tiled) or len(ids_of(one)) != len(
            ids_of(other)
        ):
            for axis in (one, other):
                self.freeze(axis, "it meets channels that are laid out differently")
            return one
        self.join(ids_of(one), ids_of(other))
        return one

    def settle(self) -> Settled:
        """All ids in classes."""
        pairs = self._pairs or [(np.empty(0, np.int64), np.empty(0, np.int64))]
        one, other = (np.concatenate(side) for side in zip(*pairs, strict=True))
        size = self._count
        graph = coo_matrix((np.ones(len(one), np.int8), (one, other)), shape=(size, size))
        num, labels = connected_components(graph, directed=False)
        class_of = labels.astype(np.int64)
        made, makers = self._makers(class_of, num)
        kept, reasons = self._reasons(class_of, num)
        return Settled(class_of, made, makers, kept, reasons)

    def _makers(self, class_of: Ids, num: int) -> tuple[Ids, tuple[tuple[str, ...], ...]]:
        numbers: dict[tuple[str, ...], int] = {(): 0}
        makers: list[tuple[str, ...]] = [()]
        made = np.zeros(num, np.int64)
        for ids, layer in self._made:
            classes = class_of[ids]
            before = made[classes]
            # Nearly always one layer after the same others, for all the channels of an axis.
            for number in set(before.tolist()):
                together = (*makers[number], layer)
                after = numbers.setdefault(together, len(makers))
                if after == len(makers):
                    makers.append(together)
                made[classes[before == number]] = after
        return made, tuple(makers)

    def _reasons(self, class_of: Ids, num: int) -> tuple[Ids, tuple[str | None, ...]]:
        numbers: dict[str | None, int] = {None: 0}
        kept = np.zeros(num, np.int64)
        for ids, reason in self._frozen:
            classes = class_of[ids]
            # The first reason is the one that is told.
            kept[classes[kept[classes] == 0]] = numbers.setdefault(reason, len(numbers))
        return kept, tuple(numbers)

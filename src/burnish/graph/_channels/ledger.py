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
    """Every id's class; the layers that make a class, in order; why it must stay, if it must."""

    class_of: Ids
    makers: dict[int, tuple[str, ...]]
    frozen: dict[int, str]

    def free(self, ids: Ids) -> list[int]:
        """The different classes of `ids` that may be removed."""
        classes = np.unique(self.class_of[ids]).tolist()
        return [c for c in classes if c in self.makers and c not in self.frozen]


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
            self._frozen.append((np.unique(ids), reason))

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
        _, labels = connected_components(graph, directed=False)
        class_of = labels.astype(np.int64)
        makers: dict[int, tuple[str, ...]] = {}
        for ids, layer in self._made:
            for index in np.unique(class_of[ids]).tolist():
                makers[index] = (*makers.get(index, ()), layer)
        frozen: dict[int, str] = {}
        for ids, reason in self._frozen:
            for index in np.unique(class_of[ids]).tolist():
                frozen.setdefault(index, reason)
        return Settled(class_of, makers, frozen)

"""The fewest conversions between two number formats: a minimum cut.

Some values must be small, some float32, the rest may be either. A value that is read in the other
format needs one conversion, however many read it so: it is shared. The number of conversions of a
labelling is then the weight of a cut in a directed graph: small values on the source's side,
float32 ones on the sink's, and for each value two helper nodes. One costs 1 where the value is
small and any reader is not, the other where the value is float32 and any reader is small. So the
least number over all labellings is a minimum cut (Ford and Fulkerson, 1956), found exactly and in
milliseconds; among labellings with equally few conversions the one with the most small values wins.

Left out: the sizes of the values converted. Every conversion counts the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, maximum_flow


@dataclass(frozen=True)
class Value:
    """What is labelled: its readers, by index, and the label it must have, if any."""

    readers: tuple[int, ...]
    small: bool | None = None


def fewest_conversions(values: Sequence[Value], equal: Sequence[tuple[int, int]]) -> list[bool]:
    """For each value, whether it is small.

    Args:
        values: the values of a graph.
        equal: pairs that must have one label (a list and its parts).

    Raises:
        ValueError: the demands contradict each other (an equal pair that must differ).
    """
    count = len(values)
    conversion, infinite = count + 1, (count + 1) * (2 * count + 2)
    source, sink = 3 * count, 3 * count + 1
    edges: dict[tuple[int, int], int] = {}

    def edge(tail: int, head: int, capacity: int) -> None:
        edges[tail, head] = min(edges.get((tail, head), 0) + capacity, infinite)

    for index, value in enumerate(values):
        if value.small is True:
            edge(source, index, infinite)
        elif value.small is False:
            edge(index, sink, infinite)
        else:
            edge(source, index, 1)  # what a free value costs as float32
        if value.readers:
            given, wanted = count + index, 2 * count + index
            edge(index, given, conversion)
            edge(wanted, index, conversion)
            for reader in value.readers:
                edge(given, reader, infinite)
                edge(reader, wanted, infinite)
    for one, other in equal:
        edge(one, other, infinite)
        edge(other, one, infinite)
    reached = _source_side(edges, 3 * count + 2, source, sink)
    small = [index in reached for index in range(count)]
    wrong = [i for i, v in enumerate(values) if v.small is not None and v.small != small[i]]
    if wrong or any(small[a] != small[b] for a, b in equal):
        raise ValueError("the labels that were demanded contradict each other")
    return small


def num_conversions(values: Sequence[Value], small: Sequence[bool]) -> int:
    """How many conversions a labelling needs."""
    return sum(
        any(small[reader] != small[index] for reader in value.readers)
        for index, value in enumerate(values)
    )


def _source_side(
    edges: Mapping[tuple[int, int], int], size: int, source: int, sink: int
) -> set[int]:
    tails, heads = (np.array(ends, dtype=np.int32) for ends in zip(*edges, strict=True))
    capacity = csr_matrix(
        (np.array(list(edges.values()), dtype=np.int32), (tails, heads)), shape=(size, size)
    )
    flow = maximum_flow(capacity, source, sink).flow
    left = capacity - flow
    left.eliminate_zeros()
    # The largest side of the source that a minimum cut has would be all that cannot reach the sink;
    # that is the one with the most small values.
    back = csr_matrix(left.T > 0)
    return set(range(size)) - set(
        breadth_first_order(back, sink, return_predecessors=False).tolist()
    )

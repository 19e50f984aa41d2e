"""A runtime's kernel times, given to the operators of the model.

Runtimes fuse: one kernel computes a convolution, the batch-norm after it and the activation after
that. Its time goes to the operator that most of it is for, the others are listed as fused into that
one. Kernels that only move data (another layout, a copy) are given to the operator that wants the
data. What belongs to no operator (quantizers, reordering of an output, weights looked up by name)
is kept as the rest, so that nothing is lost: seconds and rest together are the kernels' sum.

An operator that is in neither list has no kernel: it was computed when the file was loaded, or it
is a view and costs nothing.

Left out: splitting a kernel's time among the operators in it; no counter tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from burnish.bundle import OpTime
from burnish.runtimes._exported import JOINED

# What multiplies matrices is the reason for a kernel it is in; what only rearranges never is.
_FIRST = (
    *("conv", "linear", "matmul", "addmm", "mm", "bmm", "baddbmm", "einsum"),
    *("scaled_dot_product_attention", "lstm", "gru", "rnn"),
)
_LAST = frozenset(
    {
        *("view", "_unsafe_view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze"),
        *("permute", "transpose", "t", "expand", "expand_as", "repeat", "contiguous", "clone"),
        *("slice", "select", "split", "split_with_sizes", "chunk", "unbind", "getitem", "alias"),
        *("detach", "to", "_to_copy", "dropout", "identity"),
    }
)
_APPENDED = "_/~.:"  # what follows an operator's name in that of a node made from it


@dataclass(frozen=True)
class Attributed:
    """Where a runtime's time goes, by the names of operators.

    Attributes:
        seconds: per run, of each operator that has a kernel.
        fused: the operators that are computed by another one's kernel, with that one.
        rest: the kernels that belong to no operator.
    """

    seconds: Mapping[str, float]
    fused: Mapping[str, str]
    rest: tuple[OpTime, ...]


def attribute(times: Sequence[OpTime], names: Sequence[str]) -> Attributed:
    """Give kernel times to operators.

    Args:
        times: what a worker counted.
        names: the operators of the traced graph as `graph.operator_names` calls them, in its order.
    """
    order = {name: place for place, name in enumerate(names)}
    longest_first = sorted(order, key=len, reverse=True)
    seconds: dict[str, float] = {}
    together: list[tuple[str, list[str]]] = []
    rest: list[OpTime] = []
    for item in times:
        named = item.members if item.members or item.feeds else (item.name,)
        inside = _operators(named, order, longest_first)
        found = inside or _operators(item.feeds, order, longest_first)
        if not found:
            rest.append(item)
            continue
        owner = min(found, key=lambda name: (_rank(name), order[name]))
        seconds[owner] = seconds.get(owner, 0.0) + item.seconds
        together.append((owner, inside))
    fused = {
        name: owner
        for owner, inside in together
        for name in sorted(inside, key=order.__getitem__)
        if name not in seconds
    }
    return Attributed(seconds, fused, tuple(rest))


def _operators(
    nodes: Iterable[str], order: Mapping[str, int], longest_first: Sequence[str]
) -> list[str]:
    """The operators that nodes of a file belong to, each once."""
    found: dict[str, None] = {}
    for node in (part for joined in nodes for part in joined.split(JOINED)):
        if node in order:
            found[node] = None
            continue
        name = next((name for name in longest_first if _made_from(node, name)), None)
        if name is not None:
            found[name] = None
    return list(found)


def _made_from(node: str, name: str) -> bool:
    return node.startswith(name) and node[len(name)] in _APPENDED


def _rank(name: str) -> int:
    kind = name.rpartition(":")[2].partition("#")[0]
    if kind.startswith(_FIRST):
        return 0
    return 2 if kind in _LAST else 1

"""Which axes of a view's input become which axes of its output.

A view keeps the order of values in memory, so its axes fall into blocks: runs of axes before and
after with the same product of sizes. Inside a block one axis may be cut into several, several
joined into one, or both. Sizes of 1 belong to no block. Dynamic sizes are compared as symbols; a
block whose first axis is dynamic on both sides, as a batch times some channels, is told how many
channels that is (`lead`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch

from burnish.graph._channels.flow import fixed


@dataclass(frozen=True)
class Block:
    """Axes before and after with the same values; none of size 1."""

    before: tuple[int, ...]
    after: tuple[int, ...]


def blocks(before: Sequence[Any], after: Sequence[Any]) -> list[Block]:
    """The blocks of a view from sizes `before` to sizes `after`, in order."""
    one = [axis for axis, size in enumerate(before) if not _is_one(size)]
    other = [axis for axis, size in enumerate(after) if not _is_one(size)]
    found = []
    while one and other:
        left, right = [one.pop(0)], [other.pop(0)]
        while not _equal(_product(before, left), _product(after, right)):
            if not one and not other:
                break
            if one and (not other or _smaller(_product(before, left), _product(after, right))):
                left.append(one.pop(0))
            else:
                right.append(other.pop(0))
        found.append(Block(tuple(left), tuple(right)))
    if one or other:
        last = found.pop() if found else Block((), ())
        found.append(Block((*last.before, *one), (*last.after, *other)))
    return found


def lead(block: Block, before: Sequence[Any], after: Sequence[Any], known: int) -> int | None:
    """How many channels the first axis after holds for each sample, where that is dynamic.

    `known`: how many the first axis before holds. None where it is no whole number, or where
    another axis is dynamic, too.
    """
    rest = [before[axis] for axis in block.before[1:]]
    others = [after[axis] for axis in block.after[1:]]
    if not all(map(fixed, (*rest, *others))) or fixed(after[block.after[0]]):
        return None
    channels, left = divmod(known * math.prod(rest), math.prod(others))
    return channels if left == 0 else None


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1


def _expression(size: Any) -> Any:
    return size.node.expr if isinstance(size, torch.SymInt) else sympy.Integer(size)


def _product(sizes: Sequence[Any], axes: Sequence[int]) -> Any:
    found = sympy.Integer(1)
    for axis in axes:
        found = found * _expression(sizes[axis])
    return found


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other) or sympy.expand(one - other) == 0


def _smaller(one: Any, other: Any) -> bool:
    """Whether one is the smaller, for samples by the thousand."""
    return _large(one) < _large(other)


def _large(size: Any) -> float:
    names = sorted(size.free_symbols, key=str)
    return float(size.subs({name: 1009 + 2 * index for index, name in enumerate(names)}))

"""Multiply-accumulates of an einsum, from its equation and shapes.

Operands are multiplied from left to right, as torch does where it has no better order to hand: a
letter that neither a later operand nor the result needs is summed with the first product that can.
A product that sums nothing (an outer or elementwise one) counts none, like any multiplication.

Left out: the cheaper orders torch takes with opt_einsum for three operands and more.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

_ELLIPSIS = "..."


def einsum_macs(equation: str, shapes: Sequence[tuple[int, ...]]) -> int:
    """Multiply-accumulates of `torch.einsum(equation, ...)` on tensors of these shapes."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = [_labels(term, len(shape)) for term, shape in zip(left.split(","), shapes, strict=True)]
    sizes: dict[str, int] = {}
    for labels, shape in zip(terms, shapes, strict=True):
        for label, size in zip(labels, shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    result = _result(right, terms) if arrow else _implicit(terms)
    total = 0
    current = set(terms[0])
    for index, term in enumerate(terms[1:], start=1):
        later = result.union(*terms[index + 1 :])
        every = current | set(term)
        # What only one of the two has and nobody needs is summed before they are multiplied.
        shared = current & set(term)
        current = every & later
        if shared - later:
            total += math.prod(sizes[label] for label in current | shared)
    return total


def _labels(term: str, rank: int) -> list[str]:
    """A label for each axis; those of an ellipsis are counted from its end."""
    before, dots, after = term.partition(_ELLIPSIS)
    num_hidden = rank - len(before) - len(after) if dots else 0
    return [*before, *(f"…{index}" for index in reversed(range(num_hidden))), *after]


def _result(right: str, terms: Sequence[Sequence[str]]) -> set[str]:
    hidden = {label for term in terms for label in term if label.startswith("…")}
    return set(right.replace(_ELLIPSIS, "")) | (hidden if _ELLIPSIS in right else set())


def _implicit(terms: Sequence[Sequence[str]]) -> set[str]:
    """Without an arrow the result has the letters that occur once."""
    times = Counter(label for term in terms for label in term)
    return {label for label, count in times.items() if count == 1 or label.startswith("…")}

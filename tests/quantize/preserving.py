"""What the tests of steps that preserve the function share."""

from __future__ import annotations

from typing import Any

import pytest

from burnish.graph import flatten
from burnish.testing import catalogue

# By default one model for each way in which channels are carried on; the rest is slow.
FEW = frozenset(
    {
        *("plain_cnn", "separable", "shuffle", "squeeze_excite", "transposed", "shared_module"),
        *("attention_fused", "attention_split", "encoder", "tied_weights"),
    }
)


def models() -> list[Any]:
    """The catalogue as parameters of a test."""
    return [
        pytest.param(tiny, id=tiny.name, marks=[] if tiny.name in FEW else [pytest.mark.slow])
        for tiny in catalogue()
    ]


def same(a: object, b: object, tolerance: float = 2e-6) -> bool:
    """Whether two outputs differ by no more than rounding, against the largest value."""
    pairs = zip(flatten(a)[0], flatten(b)[0], strict=True)
    return all(float((p - q).abs().max()) <= tolerance * float(p.abs().max()) for p, q in pairs)

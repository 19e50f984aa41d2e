"""A few operators that stand for a model: those in which most of its time goes.

Convolutions and linear layers of one shape cost the same, so a model of fifty layers has some
twenty shapes, of which a handful take nearly all the time. These stand side by side in a graph of
their own, as they are and at half their width, and are timed in the runtime itself: a second of
work tells what a change would do to the model. Linear layers stand on two axes.

Left out: recurrent layers and products of two activations.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

from burnish.profile._latency_family import place, resized
from burnish.profile._shape import OPERANDS, OpShape

KINDS = ("linear", "conv1d", "conv2d", "conv3d")
_MOST = 8
_ENOUGH = 0.9  # of the time in such operators
_FEWEST_CHANNELS = 8  # fewer are an image's colours or the like: no width to halve


@dataclass(frozen=True)
class Representative:
    """One shape, and the operators of the model that have it."""

    shape: OpShape
    names: tuple[str, ...]


def representatives(
    shapes: Mapping[str, OpShape], seconds: Mapping[str, float]
) -> tuple[Representative, ...]:
    """The shapes in which most time goes, the costliest first; () where there are none.

    Args:
        shapes: every operator of the model by its name.
        seconds: what operators take, in any unit.
    """
    groups: dict[OpShape, list[str]] = {}
    for name, shape in shapes.items():
        if weighted(shape):
            groups.setdefault(_flat(shape), []).append(name)
    found = [Representative(shape, tuple(names)) for shape, names in groups.items()]
    taken = {one: math.fsum(seconds.get(name, 0.0) for name in one.names) for one in found}
    enough = _ENOUGH * math.fsum(taken.values())
    chosen: list[Representative] = []
    for one in sorted(found, key=lambda one: -taken[one]):
        if len(chosen) == _MOST or math.fsum(taken[it] for it in chosen) > enough:
            break
        chosen.append(one)
    return tuple(chosen)


def weighted(shape: OpShape) -> bool:
    """Whether it is a layer with a stored weight, whose width can be another."""
    return shape.kind in KINDS and str(shape.setting(OPERANDS, "")).startswith("iw")


def _flat(shape: OpShape) -> OpShape:
    if shape.kind != "linear":
        return shape
    (data,), (result,) = shape.inputs, shape.outputs
    rows = math.prod(data[:-1])
    return dataclasses.replace(shape, inputs=((rows, data[-1]),), outputs=((rows, result[-1]),))


def halved(shape: OpShape) -> OpShape:
    """The layer with half its channels or features, in and out (but for an image's colours)."""
    widths = tuple(w if w < _FEWEST_CHANNELS else w // 2 for w in place(shape).widths)
    return resized(shape, widths)

"""Which activations are alive at each operator, and how much memory that takes at the worst.

Liveness: a tensor lives from the operator that writes it to the last that reads it or a view of it
(`_flow` knows views by their storage). What all living tensors hold at one operator is the least
that any plan needs there; the most over all operators is the peak. An input of the model may go
once it was read for the last time, a result stays.

As a runtime plans it (`planned`): an elementwise operator, or a batch-norm, whose operand dies
there writes into its place, zeros around an image that only convolutions read are never written
down, and what is computed from constants alone is a constant. Otherwise as eager PyTorch runs the
graph: every result is new, and the caller keeps the inputs.

Left out: kernels' workspaces, alignment, and fragmentation: a real arena is some percent larger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from burnish.errors import Damaged
from burnish.graph import operator
from burnish.profile._flow import Flow, Step, storage
from burnish.profile._shape import shape_of

_IN_PLACE = frozenset({"batch_norm"})  # a runtime folds it into what comes before it


@dataclass(frozen=True)
class Memory:
    """Bytes of living activations at each operator, in order, and the most of them.

    `peak_at` is the operator where the peak is, "" for a graph without operators. `weight_bytes`
    come on top.
    """

    peak_bytes: int
    peak_at: str
    weight_bytes: int
    timeline: tuple[tuple[str, int], ...]

    def to_json(self) -> dict[str, Any]:
        """A plain dict; `Memory.from_json` is its inverse."""
        return {
            "peak_bytes": self.peak_bytes,
            "peak_at": self.peak_at,
            "weight_bytes": self.weight_bytes,
            "timeline": [{"operator": name, "bytes": size} for name, size in self.timeline],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Memory:
        """Read back what `to_json` wrote. Raises `Damaged` when it is something else."""
        try:
            timeline = tuple(
                (str(row["operator"]), int(row["bytes"])) for row in record["timeline"]
            )
            return cls(
                int(record["peak_bytes"]),
                str(record["peak_at"]),
                int(record["weight_bytes"]),
                timeline,
            )
        except (TypeError, KeyError, ValueError) as error:
            raise Damaged(f"this is no record of memory ({error})") from None


@dataclass
class _Place:
    """A piece of memory: its bytes, and the steps from the first to the last that need it."""

    size: int
    first: int
    last: int
    ours: bool = True  # the caller's is not to be written over


def liveness(found: Flow, *, planned: bool = True) -> Memory:
    """The living activations of a flow."""
    stored = {storage(tensor): _size(tensor) for tensor in found.stored.values()}
    last = _last_uses(found, planned)
    places: dict[int, _Place] = {}
    for tensor in found.inputs:
        which = storage(tensor)
        places[which] = _Place(_size(tensor), 0, last.get(which, 0), ours=False)
    constant = set(stored)
    for index, step in enumerate(found.steps):
        for tensor in step.results:
            which = storage(tensor)
            if which in places or which in constant:
                continue
            if planned and step.constant:
                constant.add(which)
                continue
            end = last.get(which, index)
            taken = _taken(step, index, tensor, places) if planned else None
            if taken is not None:
                taken.last = max(taken.last, end)
                places[which] = taken
            else:
                places[which] = _Place(_size(tensor), index, end)
    return _summary(found, places, sum(stored.values()))


def _last_uses(found: Flow, planned: bool) -> dict[int, int]:
    """The last step that reads each storage; beyond the end for what goes out."""
    end = len(found.steps)
    last: dict[int, int] = {}
    for index, step in enumerate(found.steps):
        for tensor, _ in step.operands if step.results else ():  # a size needs no data
            last[storage(tensor)] = index
    kept = found.outputs if planned else (*found.outputs, *found.inputs)
    return last | {storage(tensor): end for tensor in kept}


def _taken(
    step: Step, index: int, result: torch.Tensor, places: Mapping[int, _Place]
) -> _Place | None:
    """The place of an operand that a result may take: written over, or read with zeros around."""
    if _is_padding(step):
        return places.get(storage(step.operands[0][0]))
    target = step.node.target
    if not isinstance(target, torch._ops.OpOverload):
        return None
    if torch.Tag.pointwise not in target.tags and operator(step.node) not in _IN_PLACE:
        return None
    for tensor, _ in step.operands:
        which = storage(tensor)
        place = places.get(which)
        if place is None or not place.ours or place.last != index:
            continue
        if tensor.numel() == result.numel() and place.size >= _size(result):
            return place
    return None


def _is_padding(step: Step) -> bool:
    """Zeros around an image, of which only convolutions read: they have padding of their own."""
    shape = shape_of(step)
    zeros = shape.kind == "constant_pad_nd" or shape.setting("mode") == "constant"
    readers = [operator(user) for user in step.node.users]
    return (
        shape.kind in ("pad", "constant_pad_nd")
        and zeros
        and not shape.setting("value", 0)
        and bool(readers)
        and all(kind.startswith("conv") for kind in readers)
    )


def _summary(found: Flow, places: Mapping[int, _Place], weight_bytes: int) -> Memory:
    changes = [0] * (len(found.steps) + 2)
    for place in {id(place): place for place in places.values()}.values():
        changes[place.first] += place.size
        changes[place.last + 1] -= place.size
    timeline, alive = [], 0
    for index, step in enumerate(found.steps):
        alive += changes[index]
        if step.results and operator(step.node) != "getitem":
            timeline.append((step.name, alive))
    if not timeline:
        return Memory(changes[0], "", weight_bytes, ())
    name, peak = max(timeline, key=lambda row: row[1])
    return Memory(peak, name, weight_bytes, tuple(timeline))


def _size(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage().nbytes())

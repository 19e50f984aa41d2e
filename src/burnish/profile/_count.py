"""Parameters, multiply-accumulates and bytes of every operator of a traced graph, at a batch.

An operator reads its constants and activations and writes its results, each once: the bytes that
must move if nothing is kept from before. A view moves nothing; a lookup reads the rows it gives,
not its table. A parameter is counted as one parameter for the first operator that reads it, so that
sums over a model are right where weights are tied; its bytes count for every operator, because each
reads them.

Runtimes fuse: a convolution with the batch-norm and the activation behind it is one kernel, and
what passed between them never reaches memory. `Counts.traffic` gives the bytes of such a group.

Left out: a kernel's own workspace, and data read twice because a cache is small.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from burnish.graph import Traced
from burnish.profile._flow import Flow, Step, flow, storage
from burnish.profile._shape import macs, shape_of

_LOOKUPS = frozenset({"embedding", "embedding_bag", "lookup", "index", "index_select", "gather"})
_NOT_SHOWN = frozenset({"getitem"})  # Python's, on what an operator with several results gives


@dataclass(frozen=True)
class Counted:
    """One operator: its name, its module's path, torch's kind, what it holds and moves.

    `macs` is None where the operator is not known. `reads` and `writes` are the activations, as
    (which, bytes); numbers are good within one `Counts` only.
    """

    name: str
    module: str
    kind: str
    macs: int | None
    num_parameters: int
    weight_bytes: int
    reads: tuple[tuple[int, int], ...]
    writes: tuple[tuple[int, int], ...]

    @property
    def input_bytes(self) -> int:
        """Bytes of activations it reads."""
        return sum(size for _, size in self.reads)

    @property
    def output_bytes(self) -> int:
        """Bytes it writes."""
        return sum(size for _, size in self.writes)


@dataclass(frozen=True)
class Counts:
    """All operators in order, and the totals of the model: tied weights count once in them.

    `readers` are the operators that read an activation, `kept` the activations that are results of
    the model.
    """

    operators: tuple[Counted, ...]
    num_parameters: int
    weight_bytes: int
    readers: Mapping[int, frozenset[str]]
    kept: frozenset[int]

    @property
    def macs(self) -> int:
        """Of all operators that are known."""
        return sum(item.macs or 0 for item in self.operators)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all operators, in order."""
        return tuple(item.name for item in self.operators)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Names of the operators whose multiply-accumulates are not known."""
        return tuple(item.name for item in self.operators if item.macs is None)

    def traffic(self, names: Iterable[str]) -> int:
        """Bytes that cross the border of a group of operators computed by one kernel."""
        group = {name for name in names if name in self._places}
        total = 0
        inside: set[int] = set()
        written: dict[int, int] = {}
        for place in sorted(self._places[name] for name in group):
            item = self.operators[place]
            total += item.weight_bytes
            for which, size in item.reads:
                total += 0 if which in inside else size
                inside.add(which)
            written |= dict(item.writes)
            inside |= written.keys()
        for which, size in written.items():
            others = self.readers.get(which, frozenset())
            if which in self.kept or not others or others - group:
                total += size
        return total

    def operator(self, name: str) -> Counted:
        """The operator of that name, which must exist."""
        return self.operators[self._places[name]]

    @functools.cached_property
    def _places(self) -> Mapping[str, int]:
        return {item.name: place for place, item in enumerate(self.operators)}


def count(traced: Traced, batch: int) -> Counts:
    """Count a traced model's operators at `batch` samples. Raises like `shapes`."""
    return count_flow(traced, flow(traced, batch))


def count_flow(traced: Traced, found: Flow) -> Counts:
    """The same for a flow that is there already."""
    parameters = _parameters(traced, found)
    stored = {storage(tensor): _storage_bytes(tensor) for tensor in found.stored.values()}
    num_parameters = sum(parameters.values())
    operators = []
    readers: dict[int, set[str]] = defaultdict(set)
    for step in found.steps:
        mine = _count(step, parameters)
        for which, _ in mine.reads:
            readers[which].add(step.name)
        if mine.kind not in _NOT_SHOWN and step.results:
            operators.append(mine)
    return Counts(
        tuple(operators),
        num_parameters,
        sum(stored.values()),
        {which: frozenset(names) for which, names in readers.items()},
        frozenset(storage(tensor) for tensor in found.outputs),
    )


def _count(step: Step, parameters: dict[int, int]) -> Counted:
    shape = shape_of(step)
    held = 0
    reads: dict[int, int] = {}
    written: dict[int, int] = {}
    constants: dict[int, int] = {}
    if not step.is_view and shape.kind not in _NOT_SHOWN:
        for tensor, constant in step.operands:
            side = constants if constant else reads
            which = storage(tensor)
            side[which] = max(side.get(which, 0), _bytes(tensor))
            held += parameters.pop(which, 0)
        for tensor in step.results:
            which = storage(tensor)
            written[which] = written.get(which, 0) + _bytes(tensor)
        if shape.kind in _LOOKUPS:
            given = sum(written.values())
            constants = {which: min(size, given) for which, size in constants.items()}
            reads = {which: min(size, given) for which, size in reads.items()}
    return Counted(
        name=step.name,
        module=step.name.rpartition(":")[0],
        kind=shape.kind,
        macs=macs(shape),
        num_parameters=held,
        weight_bytes=sum(constants.values()),
        reads=tuple(reads.items()),
        writes=tuple(written.items()),
    )


def _parameters(traced: Traced, found: Flow) -> dict[int, int]:
    """Elements of the parameters by storage: tied ones have one."""
    names = {name for name, _ in traced.graph_module.named_parameters(remove_duplicate=False)}
    return {
        storage(tensor): tensor.numel() for name, tensor in found.stored.items() if name in names
    }


def _bytes(tensor: torch.Tensor) -> int:
    """What is to be read of it: an expanded tensor's elements share memory."""
    return min(tensor.numel() * tensor.element_size(), _storage_bytes(tensor))


def _storage_bytes(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage().nbytes())

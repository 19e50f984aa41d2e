"""What layers read, as second moments: Σ x xᵀ over the rows of a sample, layer by layer.

A sample runs through the graph once (`graph.Walk`) and stops before every layer. Layers that read
one value share a moment. What the caller decides for a layer can be put in its place, so that all
that follow read what the network, as far as it is rounded, really gives them.

One moment is held at a time, [in, in] in float32, and what the walk holds: the values that are
still to be read, of as many samples as keep them within `_lockstep.FRONTIER` bytes. Weights are
shared with the graph that was given, and never written; a weight that was put in the place of
another is let go once its layer has run.

Left out: weighing rows (padding of a text counts like its words: the graph does not say which rows
a mask leaves out).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from burnish.errors import InvalidInput
from burnish.graph import Traced, Walk, operator, operator_names, tensor_of
from burnish.quantize._calibration.sample import Sample
from burnish.quantize._rescaling.carry import shared_tensors
from burnish.quantize._static.insert import NAME_KEY
from burnish.quantize._static.lockstep import bounded


@dataclass(frozen=True, eq=False)
class Moment:
    """What some layers read: rows x of `width` numbers.

    Args:
        layers: their names, in the graph's order.
        total: the sum of x xᵀ, float32 [width, width].
        magnitude: the mean of |x|, float32 [width].
        num_rows: how many rows there were.
    """

    layers: tuple[str, ...]
    total: torch.Tensor
    magnitude: torch.Tensor
    num_rows: int

    @property
    def note(self) -> str:
        """For the coverage table, where there are fewer rows than a second moment needs."""
        width = len(self.total)
        if self.num_rows >= width:
            return ""
        return (
            f"few data: {self.num_rows} rows for {width} inputs, so that its second moment has no "
            "full rank and rests on damping; give more calibration samples"
        )


class Passage:
    """A sample on its way through a graph.

    Args:
        folded: the graph; shared, never written.
        sample: what runs.
        stops: names of the operators to stop before: linear layers, `x @ stored matrix`, and
            others whose weights are to be put in place.
        who: for the message where there is no data.
    """

    def __init__(self, folded: Traced, sample: Sample, stops: Collection[str], who: str) -> None:
        if sample.num == 0:
            raise InvalidInput(f"{who}: the calibration data is empty: give one batch at least")
        traced = folded.copy(share=True)
        self.module = traced.graph_module
        names = {name: node for node, name in operator_names(self.module).items()}
        self.nodes = {name: names[name] for name in stops}
        for name, node in self.nodes.items():
            node.meta[NAME_KEY] = name
        self._places = {node: at for at, node in enumerate(self.module.graph.nodes)}
        self._shared = shared_tensors(self.module)
        self._walk = Walk(self.module, bounded(traced, set(stops), sample))
        self._replaced: list[tuple[int, str, torch.Tensor]] = []

    def groups(self) -> Iterator[tuple[str, ...]]:
        """The stops in the graph's order; matrix products that read one value come together."""
        found: dict[Any, list[str]] = {}
        for name, node in sorted(self.nodes.items(), key=lambda item: self._places[item[1]]):
            key = (node.args[0], "") if is_product(node) else (node, name)
            found.setdefault(key, []).append(name)
        yield from (tuple(names) for names in found.values())

    def moment(self, layers: tuple[str, ...]) -> Moment:
        """Run up to the first of some layers that read one value, and sum what they read.

        Raises:
            InvalidInput: what they read is not finite, or overflows when squared.
        """
        node = self.nodes[layers[0]]
        self.advance(layers[0])
        width = self.weight(layers[0]).shape[1]
        total, magnitude = torch.zeros(width, width), torch.zeros(width)
        num_rows = 0
        with torch.no_grad():
            for value in self._walk.inputs(node):
                rows = value.reshape(-1, width).float()
                total.addmm_(rows.t(), rows)
                magnitude.add_(rows.abs().sum(0))
                num_rows += len(rows)
        if not bool(torch.isfinite(total).all()):
            raise InvalidInput(
                f"calibration: what {layers[0]} reads is not finite, or so large that its square "
                "is not: the model overflows on this data, or is not a number in itself"
            )
        return Moment(layers, total, magnitude / max(num_rows, 1), num_rows)

    def advance(self, stop: str) -> None:
        """Run up to a stop, and let go of the weights whose layers have run."""
        place = self._places[self.nodes[stop]]
        self._walk.advance(self.nodes[stop])
        for last, target, original in self._replaced:
            if last < place:
                self._set(target, original)
        self._replaced = [item for item in self._replaced if item[0] >= place]

    def weight(self, name: str) -> torch.Tensor:
        """The weight of an operator as a matrix, [out or rows, all the rest], not copied."""
        node = self.nodes[name]
        stored = tensor_of(self.module, _weight_of(node))
        assert stored is not None, name
        return stored.detach().t() if operator(node) == "matmul" else stored.detach().flatten(1)

    def replaceable(self, name: str) -> bool:
        """Whether an operator reads one stored weight, which another can stand for."""
        node = self.nodes[name]
        return tensor_of(self.module, node.args[_weight_at(node)]) is not None

    def shared(self, name: str) -> str | None:
        """The name of an operator's weight where another operator reads it, too."""
        return self._shared.get(_weight_of(self.nodes[name]))

    def replace(self, name: str, matrix: torch.Tensor) -> None:
        """Let an operator run with another weight, as `weight` gives it."""
        source = _weight_of(self.nodes[name])
        stored = tensor_of(self.module, source)
        assert stored is not None, name
        turned = matrix.t() if operator(self.nodes[name]) == "matmul" else matrix
        target = str(source.target)
        last = max(
            self._places[reader]
            for node in self._places
            if node.op == "get_attr" and node.target == source.target
            for reader in node.users
        )
        if not any(known == target for _, known, _ in self._replaced):
            self._replaced.append((last, target, stored))
        self._set(target, turned.reshape(stored.shape).to(stored.dtype))

    def _set(self, target: str, tensor: torch.Tensor) -> None:
        path, _, leaf = target.rpartition(".")
        owner = self.module.get_submodule(path)
        delattr(owner, leaf)
        # A parameter stays one, and the graph does not mind which.
        if isinstance(tensor, torch.nn.Parameter):
            owner.register_parameter(leaf, tensor)
        else:
            owner.register_buffer(leaf, tensor)


def is_product(node: fx.Node) -> bool:
    """Whether an operator multiplies what it reads first with a stored matrix."""
    return operator(node) in ("linear", "matmul")


def _weight_at(node: fx.Node) -> int:
    return 0 if operator(node) == "embedding" else 1


def _weight_of(node: fx.Node) -> fx.Node:
    source = node.args[_weight_at(node)]
    assert isinstance(source, fx.Node)
    return source

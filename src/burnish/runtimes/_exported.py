"""A traced graph as torch exports it, made once for all runtimes that want it.

Every export of ours begins with torch.export of the traced graph, and those by way of ONNX go on
with torch's ONNX exporter: seconds each, for the same result. So both results are remembered for
as long as the traced model lives, and made again when its graph or a tensor of it has changed in
between (tensors by torch's count of their changes). The tensors are the model's own; the memory is
that of two graphs. A graph whose tensors do not count their changes is exported each time.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from burnish.graph import DEQUANTIZE, DEQUANTIZE_BLOCKS, QUANTIZE, Traced, operator_names

NAME_KEY = "burnish"
JOINED = "+"  # between the operators of a node that was fused when it was exported
T = TypeVar("T")


class Remembered(Generic[T]):
    """`make(model)`, remembered by the traced model it was made of."""

    def __init__(self, make: Callable[[Traced], T]) -> None:
        self._make = make
        self._made: weakref.WeakKeyDictionary[Traced, tuple[object, T]] = (
            weakref.WeakKeyDictionary()
        )

    def __call__(self, model: Traced) -> T:
        state = _state(model)
        kept = self._made.get(model)
        if kept is not None and state is not None and kept[0] == state:
            return kept[1]
        made = self._make(model)
        self._made[model] = (state, made)
        return made


def _state(model: Traced) -> object | None:
    """Equal for as long as nothing about the graph changes; None where that cannot be told."""
    module = model.graph_module
    tensors = [*module.named_parameters(), *module.named_buffers()]
    if any(tensor.is_inference() for _, tensor in tensors):
        return None
    names = tuple(str(node.meta.get(NAME_KEY, name)) for node, name in _names(model))
    marks = tuple((name, tensor.data_ptr(), tensor._version) for name, tensor in tensors)
    return str(module.graph), names, marks, model.inputs, model.outputs


def _names(model: Traced) -> list[tuple[torch.fx.Node, str]]:
    return list(operator_names(model.graph_module).items())


@dataclass(frozen=True)
class Exported:
    """torch's program, and what our plans call its nodes, by the nodes' names in it.

    Our quantizers have no such name: they are not operators of the model.
    """

    program: torch.export.ExportedProgram
    names: Mapping[str, str]


def _export(model: Traced) -> Exported:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            model.graph_module, model.example(), dynamic_shapes=model.dynamic_shapes()
        )
    ours = {
        node.name: str(node.meta.get(NAME_KEY, name))
        for node, name in _names(model)
        if node.target not in (QUANTIZE, DEQUANTIZE, DEQUANTIZE_BLOCKS)
    }
    names = {}
    for node in program.graph.nodes:
        source: Any = node.meta.get("from_node")
        if node.op == "call_function" and source and source[0].name in ours:
            names[node.name] = ours[source[0].name]
    return Exported(program, names)


exported: Remembered[Exported] = Remembered(_export)

"""Names for OpenVINO's nodes by which its counters can be read back.

The converter makes several nodes of some ONNX nodes, one of several others, and calls them after
what they give, after a type and a number ("Multiply_1273"), or, before an output of the model,
after that output. What it keeps are the names of values. So every node gets the name of the ONNX
nodes whose values it gives ("+" between them), and of those before them whose values are gone: the
products and the softmax inside an attention. A node that gives no such value gets the name of the
next node downstream that does, a slash, and what the converter called it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from burnish.runtimes._exported import JOINED
from burnish.runtimes._onnx import Written

_NOT_COMPUTED = frozenset({"Parameter", "Constant", "Result"})
_INSIDE = "/"


def name_nodes(model: Any, written: Sequence[Written]) -> None:
    """Rename the nodes of a model just converted from a file of these nodes, in place."""
    nodes = [n for n in model.get_ordered_ops() if n.get_type_name() not in _NOT_COMPUTED]
    giver = {value: item.name for item in written for value in item.outputs}
    groups = []
    for node in nodes:
        values = sorted(name for output in node.outputs() for name in output.get_names())
        groups.append(list(dict.fromkeys(giver[value] for value in values if value in giver)))
    inputs = {name for port in model.inputs for name in port.get_names()}
    _adopt({name: group for group in groups for name in group}, written, inputs)
    order = {item.name: place for place, item in enumerate(written)}
    named: dict[str, str] = {}  # by new name, the ONNX nodes in it
    for node, group in zip(nodes, groups, strict=True):
        if group:
            name = JOINED.join(sorted(group, key=order.__getitem__))
            named[name] = name
            node.set_friendly_name(name)
    for node in reversed(nodes):  # readers first
        name = node.get_friendly_name()
        owners = [named[r] for r in _readers(node) if r in named]
        if name not in named and owners:
            inside = f"{owners[0]}{_INSIDE}{name.replace(_INSIDE, '_')}"
            named[inside] = owners[0]
            node.set_friendly_name(inside)


def _adopt(group_of: dict[str, list[str]], written: Sequence[Written], inputs: set[str]) -> None:
    """Put ONNX nodes that no node of OpenVINO stands for into the group of what reads them.

    What hangs on no input of the model was computed when it was converted.
    """
    hanging, readers = set(inputs), dict[str, list[str]]()
    computed: set[str] = set()
    for item in written:
        for value in item.inputs:
            readers.setdefault(value, []).append(item.name)
        if not hanging.isdisjoint(item.inputs):
            computed.add(item.name)
            hanging.update(item.outputs)
    for item in reversed(written):
        if item.name in group_of or item.name not in computed:
            continue
        names = [name for value in item.outputs for name in readers.get(value, [])]
        found = [group_of[name] for name in names if name in group_of]
        if found:
            found[0].append(item.name)
            group_of[item.name] = found[0]


def _readers(node: Any) -> list[str]:
    return [
        target.get_node().get_friendly_name()
        for output in node.outputs()
        for target in output.get_target_inputs()
    ]

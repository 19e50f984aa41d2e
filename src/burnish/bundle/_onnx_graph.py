"""The graph of an ONNX file, read without the package onnx, and what a fused kernel is made of.

A worker has the runtime and numpy and nothing else, and all that is wanted here are names: which
node reads which value and gives which. Those few fields are picked out of the file (protocol
buffers are numbered fields; weights are skipped), and nothing of it is interpreted.

onnxruntime rewrites the graph before it runs it and can save what it made. A kernel there stands
for all nodes of the file that lie between its inputs and its outputs, because values keep their
names when nodes are fused. Where a layout is changed (NCHWc, or NHWC for int8) they do not: such a
value is recognised by the kernel that brings it back into the file's layout, or by what reads it: a
rewritten node keeps its kind, the order of its inputs and, in its name, its own or its value's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from burnish.errors import Damaged

# onnx.proto: Model.graph; Graph.node, .initializer, .input; Node.input, .output, .name, .op_type,
# .attribute; Tensor.name; ValueInfo.name; Attribute.g, .graphs
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT = 1, 5, 11
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_KIND, _NODE_ATTRIBUTE = 1, 2, 3, 4, 5
_TENSOR_NAME, _VALUE_NAME = 8, 1
_ATTRIBUTE_GRAPHS = (6, 11)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# What onnxruntime puts around the name of a node or value when it makes a node of its own from it.
_BEFORE = re.compile(r"^fused ")
_MOVES = frozenset({"ReorderInput", "ReorderOutput", "Transpose"})
_AFTER = re.compile(r"(_nchwc|_nhwc|_token_\d+)+$")


@dataclass(frozen=True)
class Node:
    """A node of a graph: names of itself, its operator, the values it reads and gives."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """Nodes in the file's order, those of bodies of loops and branches included; stored values."""

    nodes: tuple[Node, ...]
    stored: frozenset[str]
    inputs: frozenset[str]


@dataclass(frozen=True)
class Made:
    """What a kernel is made of: nodes of the file, or else the nodes that read what it moves."""

    members: tuple[str, ...]
    feeds: tuple[str, ...] = ()


def read_graph(path: Path) -> Graph:
    """Read an ONNX file's graph. Raises `Damaged` where it is none."""
    try:
        data = memoryview(path.read_bytes())
        graphs = [value for number, value in _fields(data) if number == _MODEL_GRAPH]
        (graph,) = (value for value in graphs if isinstance(value, memoryview))
        nodes: list[Node] = []
        stored: set[str] = set()
        inputs: set[str] = set()
        _read(graph, nodes, stored, inputs)
    except (IndexError, ValueError) as error:
        raise Damaged(f"{path} is no ONNX file ({error})") from None
    return Graph(tuple(nodes), frozenset(stored), frozenset(inputs))


def _read(graph: memoryview, nodes: list[Node], stored: set[str], inputs: set[str]) -> None:
    for number, value in _fields(graph):
        if not isinstance(value, memoryview):
            continue
        if number == _GRAPH_INITIALIZER:
            stored.add(_text(value, _TENSOR_NAME))
        elif number == _GRAPH_INPUT:
            inputs.add(_text(value, _VALUE_NAME))
        elif number == _GRAPH_NODE:
            _read_node(value, nodes, stored, inputs)


def _read_node(data: memoryview, nodes: list[Node], stored: set[str], inputs: set[str]) -> None:
    parts = (_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_KIND)
    texts: dict[int, list[str]] = {number: [] for number in parts}
    bodies = []
    for number, value in _fields(data):
        if not isinstance(value, memoryview):
            continue
        if number in texts:
            texts[number].append(str(value, "utf-8"))
        elif number == _NODE_ATTRIBUTE:
            bodies += [item for field, item in _fields(value) if field in _ATTRIBUTE_GRAPHS]
    for body in bodies:
        if isinstance(body, memoryview):
            _read(body, nodes, stored, inputs)
    name, kind = ("".join(texts[number]) for number in (_NODE_NAME, _NODE_KIND))
    nodes.append(Node(name, kind, tuple(texts[_NODE_INPUT]), tuple(texts[_NODE_OUTPUT])))


def _text(data: memoryview, wanted: int) -> str:
    for number, value in _fields(data):
        if number == wanted and isinstance(value, memoryview):
            return str(value, "utf-8")
    return ""


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The numbered fields of one message; nested messages and texts as bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, form = key >> 3, key & 7
        if form == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if form == _BYTES:
            size, at = _varint(data, at)
        elif form in (_FIXED64, _FIXED32):
            size = 8 if form == _FIXED64 else 4
        else:
            raise ValueError(f"field {number} has the unknown form {form}")
        if at + size > len(data):
            raise ValueError("it ends in the middle of a field")
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def made_of(file: Graph, optimized: Graph) -> dict[str, Made]:
    """For each kernel of the optimized graph, by name, the nodes of the file it stands for."""
    namesakes = _namesakes(file, optimized)
    origin = _origins(file, optimized, namesakes)
    giver = {value: node for node in file.nodes for value in node.outputs if value}
    kept, taken = set(origin.values()), {node.name for node in namesakes.values()}
    members: dict[str, tuple[str, ...]] = {}
    for kernel in optimized.nodes:
        inputs = {origin.get(value, value) for value in kernel.inputs}
        outputs = [origin[value] for value in kernel.outputs if value in origin]
        own = namesakes.get(kernel.name)
        found = _between(
            [value for value in outputs if value not in inputs],
            kept,
            taken - {own.name} if own else taken,
            giver,
        )
        if own is not None and own.name not in found:
            found = (*found, own.name)
        members[kernel.name] = found
    readers: dict[str, list[Node]] = {}
    for kernel in optimized.nodes:
        for value in kernel.inputs:
            readers.setdefault(value, []).append(kernel)
    return {
        kernel.name: Made(members[kernel.name], _fed(kernel, members, readers))
        for kernel in optimized.nodes
    }


def _namesakes(file: Graph, optimized: Graph) -> dict[str, Node]:
    """The node of the file that a kernel is called after.

    A kernel may be called after the value that the last node fused into it gave: then the node of
    its own kind further up is meant, where there is one.
    """
    giver = {value: node for node in file.nodes for value in node.outputs if value}
    named = {node.name: node for node in file.nodes if node.name}
    found = {}
    for kernel in optimized.nodes:
        text = _AFTER.sub("", _BEFORE.sub("", kernel.name))
        node = named.get(text)
        if node is None:
            node = giver.get(text)
            while node is not None and node.kind != kernel.kind:
                node = giver.get(node.inputs[0]) if node.inputs else None
        if node is not None:
            found[kernel.name] = node
    return found


def _origins(file: Graph, optimized: Graph, namesakes: Mapping[str, Node]) -> dict[str, str]:
    """Values of the optimized graph by the name they have in the file, where they are there.

    A value in another layout is the same value.
    """
    known = {value for node in file.nodes for value in (*node.inputs, *node.outputs) if value}
    known |= file.inputs
    origin = {v: v for n in optimized.nodes for v in (*n.inputs, *n.outputs) if v in known}
    moves = [
        kernel
        for kernel in optimized.nodes
        if kernel.kind in _MOVES and kernel.name not in namesakes
    ]
    for kernel in reversed(moves):
        if kernel.outputs[0] in origin:
            origin.setdefault(kernel.inputs[0], origin[kernel.outputs[0]])
    for kernel in moves:
        if kernel.inputs[0] in origin:
            origin.setdefault(kernel.outputs[0], origin[kernel.inputs[0]])
    for kernel in optimized.nodes:
        node = namesakes.get(kernel.name)
        if node is None or node.kind != kernel.kind:
            continue
        for mine, theirs in zip(kernel.inputs, node.inputs, strict=False):
            if mine and theirs and theirs not in file.stored:
                origin.setdefault(mine, theirs)
    return origin


def _between(
    outputs: Iterable[str], kept: set[str], taken: set[str], giver: Mapping[str, Node]
) -> tuple[str, ...]:
    """Names of the nodes of the file that give `outputs`, as far up as values that are kept and
    nodes that other kernels are called after."""
    found: dict[str, None] = {}
    todo = list(outputs)
    while todo:
        node = giver.get(todo.pop())
        if node is None or node.name in found or node.name in taken:
            continue
        found[node.name] = None
        todo += [value for value in node.inputs if value and value not in kept]
    return tuple(found)


def _fed(
    kernel: Node, members: Mapping[str, tuple[str, ...]], readers: Mapping[str, list[Node]]
) -> tuple[str, ...]:
    """For a kernel that computes nothing: what the first kernels downstream compute."""
    if members[kernel.name]:
        return ()
    todo, seen, found = [kernel], {kernel.name}, dict[str, None]()
    while todo:
        for value in todo.pop().outputs:
            for reader in readers.get(value, []):
                if members[reader.name]:
                    found |= dict.fromkeys(members[reader.name])
                elif reader.name not in seen:
                    seen.add(reader.name)
                    todo.append(reader)
    return tuple(found)

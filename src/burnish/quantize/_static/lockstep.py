"""Running the float and the quantized graph side by side, layer by layer.

Both graphs run over all sample batches up to the next quantized layer and stop there: the caller
sees what the layer reads in each, may change the quantized layer's integers and bias, and the walk
goes on with them. Each graph is passed once, whatever the number of layers, where running the
network anew for each layer would cost their square. What is held meanwhile is the frontier, the
values that lie between the two halves of the graph; in the quantized graph these are uint8, since
dequantizing is put off until something reads.

Left out: spilling the frontier to disk; the number of samples is cut to fit `FRONTIER` instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import fx

from burnish.graph import DEQUANTIZE, Traced, Walk
from burnish.quantize._calibration.batches import CHUNK, channels_last
from burnish.quantize._calibration.sample import Sample
from burnish.quantize._static.insert import NAME_KEY

FRONTIER = 512 * 2**20


@dataclass(frozen=True)
class Meeting:
    """A layer both graphs stand before: its nodes, and its inputs call by call."""

    name: str
    real_node: fx.Node
    int8_node: fx.Node
    real: list[torch.Tensor]
    int8: list[torch.Tensor]


def lockstep(real: Traced, int8: Traced, names: Iterable[str], sample: Sample) -> Iterator[Meeting]:
    """Meet before each named layer, in the order of the graph.

    Args:
        real: the float graph; nodes carry their names.
        int8: the quantized graph of it, whose buffers may be written between two meetings.
        names: of layers that both have.
        sample: what to run.
    """
    wanted = set(names)
    batches = bounded(real, wanted, sample)
    real_walk, int8_walk = (
        Walk(network.graph_module, batches, late=_put_off) for network in (real, int8)
    )
    partners = {
        node.meta[NAME_KEY]: node
        for node in int8.graph_module.graph.nodes
        if node.op == "call_function" and _weight_is_stored(node) and NAME_KEY in node.meta
    }
    for node in real.graph_module.graph.nodes:
        name = node.meta.get(NAME_KEY)
        if name not in wanted:
            continue
        real_walk.advance(node)
        int8_walk.advance(partners[name])
        yield Meeting(
            name, node, partners[name], real_walk.inputs(node), int8_walk.inputs(partners[name])
        )


def _weight_is_stored(node: fx.Node) -> bool:
    weight = node.args[1] if len(node.args) > 1 else None
    return isinstance(weight, fx.Node) and weight.target is DEQUANTIZE and _is_constant(weight)


def _is_constant(node: fx.Node) -> bool:
    source = node.args[0]
    return isinstance(source, fx.Node) and source.op == "get_attr"


def bounded(real: Traced, wanted: set[str], sample: Sample) -> list[tuple[torch.Tensor, ...]]:
    """As many sample batches as keep both frontiers within `FRONTIER` bytes, at least one."""
    stops = [n for n in real.graph_module.graph.nodes if n.meta.get(NAME_KEY) in wanted]
    most = Walk.most_bytes(real.graph_module, next(iter(sample.batches(1))), stops)
    # A quarter for the uint8 values of the quantized graph, and as much again for float ones.
    fits = max(1, int(FRONTIER / max(most * 1.5, 1)))
    found, num = [], 0
    for tensors in sample.batches(min(CHUNK, fits)):
        found.append(tuple(channels_last(tensor) for tensor in tensors))
        num += min(CHUNK, fits)
        if num + min(CHUNK, fits) > fits:
            break
    return found


def _put_off(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target is DEQUANTIZE

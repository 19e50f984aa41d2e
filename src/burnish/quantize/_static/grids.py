"""Which integers each layer's weights may take.

Below 8 bits the first and the last layer keep 8: their share of the weights is small and what they
lose nothing behind or before them makes good (Banner et al. 2019; Li et al. 2021, BRECQ, and the
practice since). First is a layer with stored weights that reads no other one's result, last is one
whose result no other one reads; a network with two inputs has two first ones.

Left out: bits for single layers; mixed precision is a search.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import fx

from burnish.errors import InvalidInput
from burnish.graph import operator, tensor_of
from burnish.quantize._graphs.node import stored_matrix
from burnish.quantize._graphs.policy import WEIGHTED
from burnish.quantize._static.settings import Weights
from burnish.quantize._tensors.weights import FULL, grid_of


@dataclass(frozen=True)
class Grids:
    """Plan entries of the layers whose grid is not the usual one, and notes for the coverage."""

    entries: dict[str, dict[str, Any]]
    notes: dict[str, str]


def grids(
    module: fx.GraphModule, names: Mapping[fx.Node, str], layers: Iterable[str], weights: Weights
) -> Grids:
    """The grid of each of `layers`. InvalidInput where fewer bits would apply to none of them."""
    first, last = ends(module)
    nodes = {name: node for node, name in names.items()}
    entries, notes = {}, {}
    coarse = 0
    for name in layers:
        end = nodes[name] in first | last
        bits = 8 if end else weights.bits
        half = weights.half_range == "all" or (
            weights.half_range == "first" and nodes[name] in first
        )
        coarse += bits < 8
        grid = grid_of(bits, half)
        if grid != FULL:
            entries[name] = asdict(grid)
        said = [f"{bits}-bit weights" + (", the first or last layer" if end else "")]
        said = (said if weights.bits < 8 else []) + (["half-range weights"] if half else [])
        if said:
            notes[name] = "; ".join(said)
    if weights.bits < 8 and not coarse:
        raise InvalidInput(
            f"Weights(bits={weights.bits}) applies to no layer of this model: all that are "
            "quantized are first or last ones, which keep 8 bits"
        )
    return Grids(entries, notes)


def ends(module: fx.GraphModule) -> tuple[set[fx.Node], set[fx.Node]]:
    """The first and the last operators with stored weights, quantized or not."""
    nodes = list(module.graph.nodes)
    weighted = {node for node in nodes if has_weights(module, node)}
    after: set[fx.Node] = set()
    for node in nodes:
        if any(source in weighted or source in after for source in node.all_input_nodes):
            after.add(node)
    before: set[fx.Node] = set()
    for node in reversed(nodes):
        if any(user in weighted or user in before for user in node.users):
            before.add(node)
    return weighted - after, weighted - before


def has_weights(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node is a convolution, linear or product with weights the graph stores."""
    if node.op != "call_function":
        return False
    if operator(node) in WEIGHTED:
        return tensor_of(module, node.args[1]) is not None
    return stored_matrix(module, node) is not None

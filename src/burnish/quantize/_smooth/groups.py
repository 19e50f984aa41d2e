"""The linear layers that SmoothQuant can smooth, and where their factors go.

Linear layers that read one value form a group: they share its factors. Where nothing else reads
the value, the operator that makes its channels takes the factors in and the smoothing is free: a
layer-norm in front, the value projection behind attention, a linear layer with nothing or a ReLU
between. Elsewhere (a residual branch reads the layer-norm, too; a GELU stands between) the value
must be multiplied.

Left out: `x @ matrix` products, convolutions (their channels rarely differ as much; cross-layer
equalization is for them), normalisations written out by hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from burnish.graph import Traced, operator, tensor_of
from burnish.quantize._graphs.node import readers
from burnish.quantize._rescaling.carry import Path, Paths, follow, own_tensors, shared_tensors

_NORMS = ("layer_norm", "rms_norm")
_TAKES_IN = (*_NORMS, "linear")


@dataclass(frozen=True)
class Group:
    """Linear layers that read `value`.

    `into` takes the factors in, where that is free; `origin` is its channel for each channel of the
    value. `why` tells why it is not free.
    """

    value: fx.Node
    linears: tuple[fx.Node, ...]
    into: fx.Node | None
    origin: torch.Tensor | None
    why: str


def find_groups(
    traced: Traced, call: tuple[torch.Tensor, ...]
) -> tuple[list[Group], dict[fx.Node, str]]:
    """The groups of a graph, and the linear layers that are left alone, with reasons.

    Args:
        traced: the graph, batch-norms folded.
        call: any inputs of it; what is followed through the graph is run on them once.
    """
    module = traced.graph_module
    shared, left = shared_tensors(module), dict[fx.Node, str]()
    values: dict[fx.Node, list[fx.Node]] = {}
    for node in module.graph.nodes:
        if node.op == "call_function" and operator(node) == "linear":
            reason = _unfit(module, node, shared)
            if reason is None:
                values.setdefault(node.args[0], []).append(node)
            else:
                left[node] = reason
    paths = Paths(module)
    found = {value: _into(module, value, linears, paths) for value, linears in values.items()}
    free = {value: path for value, path in found.items() if isinstance(path, Path)}
    origins = dict(
        zip(free, follow(traced, [(path, -1) for path in free.values()], call), strict=True)
    )
    groups = []
    for value, linears in values.items():
        path, origin = found[value], origins.get(value)
        if isinstance(path, Path) and isinstance(origin, torch.Tensor):
            reason = own_tensors(path.source, shared)
            if reason is None:
                groups.append(Group(value, tuple(linears), path.source, origin, ""))
                continue
        else:
            reason = path if isinstance(path, str) else str(origin)
        groups.append(Group(value, tuple(linears), None, None, reason))
    return groups, left


def _unfit(module: fx.GraphModule, node: fx.Node, shared: dict[fx.Node, str]) -> str | None:
    weight = tensor_of(module, node.args[1])
    value = node.meta["val"]
    if weight is None:
        return "its weight is computed, not stored"
    if len(node.args) > 2 and node.args[2] is not None and tensor_of(module, node.args[2]) is None:
        return "its bias is computed, not stored"
    if weight.dim() != 2:
        return "its weight is a vector"
    if value.dtype != torch.float32:
        return f"computes in {str(value.dtype).removeprefix('torch.')}"
    if float(weight.detach().abs().max()) == 0.0:
        return "its weights are all zero"
    return own_tensors(node, shared)


def _into(
    module: fx.GraphModule, value: fx.Node, linears: list[fx.Node], paths: Paths
) -> Path | str:
    """The path to what could take the factors in, or why nothing can."""
    path = paths.to(value)
    if isinstance(path, str):
        return path
    kind = operator(path.source)
    if kind not in _TAKES_IN:
        return f"a {kind} makes its channels"
    stored = path.source.args[2:4] if kind in _NORMS else path.source.args[1:3]
    if not stored or any(_computed(module, argument) for argument in stored):
        return f"the {kind} in front stores no weights"
    if any(reader not in linears for reader in readers(value)):
        return "its input is read by other operators, too"
    return path


def _computed(module: fx.GraphModule, argument: object) -> bool:
    """Whether an argument is neither absent, nor a number, nor a stored tensor."""
    return isinstance(argument, fx.Node) and tensor_of(module, argument) is None

"""Reading one node of an exported graph: its groups, its bounds, its axes, who reads it.

Arguments of ATen operators come by position, and stand at the same place in every overload used
here; a size that is symbolic is never one of them.

Left out: anything about a second node; that is for the files that place and pair.
"""

from __future__ import annotations

import math

import torch
from torch import fx

from burnish.graph import operator, tensor_of

_INFINITE = float("inf")


def readers(node: fx.Node) -> list[fx.Node]:
    """What reads a value, size queries left out."""
    return [user for user in node.users if not operator(user).startswith("sym_")]


def is_float(node: fx.Node) -> bool:
    """Whether the node gives floats, alone or in a list."""
    value = node.meta.get("val")
    if isinstance(value, list | tuple):
        return any(isinstance(v, torch.Tensor) and v.is_floating_point() for v in value)
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def is_list(node: fx.Node) -> bool:
    """Whether the node gives several tensors, which `getitem` takes apart."""
    return isinstance(node.meta.get("val"), list | tuple)


def rank_of(node: fx.Node) -> int:
    """The number of axes of the node's value."""
    return int(node.meta["val"].dim())


def groups_of(node: fx.Node) -> int:
    """The groups of a convolution, transposed or not; 1 for anything else."""
    if not operator(node).startswith("conv"):
        return 1
    groups = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)
    assert isinstance(groups, int)
    return groups


def weight_axis(node: fx.Node) -> int | None:
    """The output-channel axis of a weight; None where groups make it ambiguous (per tensor)."""
    kind = operator(node)
    if kind.startswith("conv_transpose"):
        return 1 if groups_of(node) == 1 else None
    return 1 if kind == "matmul" else 0


def bias_of(module: fx.GraphModule, node: fx.Node) -> torch.Tensor | None:
    """The bias the graph stores for a convolution or linear; None where there is none."""
    return tensor_of(module, node.args[2]) if len(node.args) > 2 else None


def stored_matrix(module: fx.GraphModule, node: fx.Node) -> torch.Tensor | None:
    """The [in, out] matrix of `x @ matrix` where the graph stores it; None for other products."""
    if operator(node) != "matmul":
        return None
    matrix = tensor_of(module, node.args[1])
    return matrix if matrix is not None and matrix.dim() == 2 else None


def bounds(node: fx.Node) -> tuple[float, float] | None:
    """What a rectifier clamps to, [0, inf] for ReLU; None for what does not clamp."""
    kind = operator(node).rstrip("_") if node.op == "call_function" else ""
    if kind == "relu":
        return 0.0, _INFINITE
    if kind == "relu6":
        return 0.0, 6.0
    if kind == "hardtanh":
        return _bound(node, 1, "min_val", -1.0), _bound(node, 2, "max_val", 1.0)
    if kind == "clamp":
        return _bound(node, 1, "min", -_INFINITE), _bound(node, 2, "max", _INFINITE)
    if kind == "clamp_min":
        return _bound(node, 1, "min", math.nan), _INFINITE
    return None


def _bound(node: fx.Node, position: int, name: str, default: float) -> float:
    value = node.args[position] if len(node.args) > position else node.kwargs.get(name)
    if value is None:
        return default
    return float(value) if isinstance(value, int | float) else math.nan


def rectifies(node: fx.Node) -> bool:
    """ReLU, or a clamp with 0 for its floor: what an unsigned quantizer with zero point 0 does."""
    found = bounds(node)
    return found is not None and found[0] == 0.0 and found[1] > 0.0


def is_spatial_mean(node: fx.Node) -> bool:
    """A mean over all trailing axes of a batch of images: what runtimes know as pooling."""
    value = node.args[0]
    assert isinstance(value, fx.Node)
    rank = rank_of(value)
    axes = node.args[1] if len(node.args) > 1 else None
    if not isinstance(axes, list | tuple) or rank < 3:
        return False
    return sorted(int(a) % rank for a in axes if isinstance(a, int)) == list(range(2, rank))


def is_padding(node: fx.Node) -> bool:
    """Whether the node pads."""
    return operator(node) in ("pad", "constant_pad_nd")


def pads_with_zero(node: fx.Node) -> bool:
    """Whether what it pads with is zero, which every quantizer has exactly."""
    if operator(node) == "constant_pad_nd":
        return len(node.args) < 3 or bool(node.args[2] == 0)
    mode = node.args[2] if len(node.args) > 2 else "constant"
    value = node.args[3] if len(node.args) > 3 else None
    return mode == "constant" and not value

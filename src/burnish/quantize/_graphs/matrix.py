"""The weights of a convolution, linear layer or product as matrices, one for each group.

They multiply the patches of the input that `graph.patches` gathers.

Left out: transposed convolutions, whose outputs read patches of several shapes.
"""

from __future__ import annotations

import torch
from torch import fx

from burnish.graph import operator
from burnish.quantize._graphs.node import groups_of
from burnish.quantize._graphs.policy import CONVOLUTIONS, PRODUCTS


def has_matrix(node: fx.Node) -> bool:
    """Whether an operator with stored weights has this form."""
    return operator(node) in CONVOLUTIONS | PRODUCTS | {"linear"}


def matrix_of(node: fx.Node, weight: torch.Tensor) -> torch.Tensor:
    """Weights as [groups, out / groups, in / groups * kernel]; those of `x @ matrix` turned."""
    if operator(node) in PRODUCTS:
        return weight.t().unsqueeze(0)
    groups = groups_of(node)
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def weight_of(node: fx.Node, matrix: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The inverse of `matrix_of`, in the shape of `like`."""
    if operator(node) in PRODUCTS:
        return matrix.squeeze(0).t().contiguous()
    return matrix.reshape(like.shape)

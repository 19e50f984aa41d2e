"""What a convolution or linear layer multiplies its weights with, at chosen output positions.

The output of a convolution at one position is a product of its weights, [groups, out / groups,
in / groups * kernel], with the patch of the input there; a linear layer's patch is its input
vector. Patches are gathered for chosen positions only, so a layer of any size leaves a bank of
bounded size.

Left out: transposed convolutions, whose outputs read patches of several shapes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import fx

from burnish.graph._edit import operator

_CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d"})


@dataclass(frozen=True)
class Window:
    """How a convolution reads its input; one entry for each spatial axis. Linear: none."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]

    def sizes(self, x: torch.Tensor) -> tuple[int, ...]:
        """The spatial sizes of the output for an input [n, channels, ...]."""
        found = []
        for axis, kernel in enumerate(self.kernel):
            reach = x.shape[2 + axis] + sum(self.padding[axis])
            reach -= self.dilation[axis] * (kernel - 1) + 1
            found.append(reach // self.stride[axis] + 1)
        return tuple(found)


def window_of(node: fx.Node, weight: torch.Tensor) -> Window:
    """The window of a convolution; an empty one for a linear layer or a product."""
    if operator(node) not in _CONVOLUTIONS:
        return Window((), (), (), ())
    kernel = tuple(weight.shape[2:])
    rank = len(kernel)
    stride, dilation = _ints(node, 3, 1, rank), _ints(node, 5, 1, rank)
    given = node.args[4] if len(node.args) > 4 else 0
    if isinstance(given, str):
        padding = tuple(_named_padding(given, k, d) for k, d in zip(kernel, dilation, strict=True))
    else:
        padding = tuple((p, p) for p in _ints(node, 4, 0, rank))
    return Window(kernel, stride, padding, dilation)


def _named_padding(name: str, kernel: int, dilation: int) -> tuple[int, int]:
    total = dilation * (kernel - 1) if name == "same" else 0
    return total // 2, total - total // 2


def _ints(node: fx.Node, position: int, default: int, rank: int) -> tuple[int, ...]:
    value = node.args[position] if len(node.args) > position else default
    values = list(value) if isinstance(value, Sequence) else [value]
    values = values * rank if len(values) == 1 else values
    assert all(isinstance(v, int) for v in values), node
    return tuple(values)  # type: ignore[arg-type]


def num_patches(x: torch.Tensor, window: Window) -> int:
    """How many output positions an input has."""
    if not window.kernel:
        return math.prod(x.shape[:-1])
    return x.shape[0] * math.prod(window.sizes(x))


def patches(x: torch.Tensor, window: Window, groups: int, chosen: torch.Tensor) -> torch.Tensor:
    """The patches at chosen output positions: [chosen, groups, in / groups * kernel].

    `chosen` counts positions of the output in the order [n, ...spatial].
    """
    if not window.kernel:
        return x.reshape(-1, x.shape[-1])[chosen].unsqueeze(1)
    flat = [side for pair in reversed(window.padding) for side in pair]
    padded = (F.pad(x, flat) if any(flat) else x).movedim(1, -1)
    rank = len(window.kernel)
    index = list(torch.unravel_index(chosen, (x.shape[0], *window.sizes(x))))
    for axis in range(rank):
        offsets = torch.arange(window.kernel[axis]) * window.dilation[axis]
        start = (index[1 + axis] * window.stride[axis]).reshape(-1, *[1] * rank)
        index[1 + axis] = start + offsets.reshape(-1, *[1] * (rank - 1 - axis))
    index[0] = index[0].reshape(-1, *[1] * rank)
    gathered = padded[tuple(index)].reshape(len(chosen), -1, groups, x.shape[1] // groups)
    return gathered.permute(0, 2, 3, 1).reshape(len(chosen), groups, -1)

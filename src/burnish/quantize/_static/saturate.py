"""What a CPU without VNNI computes: 16-bit sums of two products that saturate, on any machine.

Kernels for uint8 times int8 on such a CPU multiply neighbouring bytes and add each two products in
16 bits, saturating (vpmaddubsw), before they add up in 32: 255 * 127 + 255 * 127 does not fit.
`without_vnni` gives the quantized model with every such sum saturated; `saturation` counts them.

Which products are neighbours is the kernels' layout: channels innermost, then the kernel's columns,
then its rows (im2col of channels-last; onnxruntime's MLAS and oneDNN pack four channels at a time,
the same neighbours where a group's channels are even). Depthwise kernels widen to 16 bits before
they multiply and do not saturate; products of two activations are left alone here. It is a model
of such CPUs and not a measurement on one: oneDNN, for one, may halve weights of its own accord
where activations are signed.

Only a pair of weights of one sign whose magnitudes sum to more than 128 can saturate,
255 * 129 > 2^15, so the plain result is kept and those pairs alone are computed again.

Left out: kernels that saturate elsewhere (ARM without dot products adds in 16 bits, too).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from burnish.errors import InvalidInput
from burnish.graph import (
    DEQUANTIZE,
    Traced,
    Window,
    num_patches,
    patches,
    tensor_of,
    window_of,
)
from burnish.quantize._graphs.matrix import has_matrix, matrix_of
from burnish.quantize._static.insert import NAME_KEY

INT16 = (-(2**15), 2**15 - 1)
SAFE = 128
_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Saturation:
    """What became of one operator's 16-bit sums.

    `sums` of two products, `saturated` of them; `error` is the squared error that makes of the
    operator's output, relative to its mean square.
    """

    operator: str
    sums: int
    saturated: int
    error: float

    @property
    def share(self) -> float:
        """The share of sums that saturate."""
        return self.saturated / max(self.sums, 1)


def without_vnni(quantized: Traced) -> Traced:
    """The model as a CPU without VNNI would answer it.

    Args:
        quantized: what `quantize_static` gave; left as it was.

    Raises:
        InvalidInput: no convolution, linear or product in it has stored int8 weights.
    """
    result = quantized.copy()
    module = result.graph_module
    found = 0
    for node in list(module.graph.nodes):
        pairs = _pairs(module, node)
        if pairs is None:
            continue
        found += 1
        name = f"burnish_pairs_{found}"
        module.add_submodule(name, pairs)
        with module.graph.inserting_after(node):
            saturated = module.graph.call_module(name, (node.args[0], node))
        saturated.meta = dict(node.meta)
        node.replace_all_uses_with(
            saturated, delete_user_cb=lambda user, new=saturated: user is not new
        )
    if not found:
        raise InvalidInput(
            "without_vnni: the model holds no layer with stored int8 weights; quantize it first"
        )
    module.graph.lint()
    module.recompile()
    return result


def saturation(
    quantized: Traced, calls: Iterable[tuple[torch.Tensor, ...]]
) -> tuple[Saturation, ...]:
    """Count what saturates on such a CPU, operator by operator.

    Args:
        quantized: what `quantize_static` gave.
        calls: the tensors of each call, in the order of `quantized.inputs`.

    Raises:
        InvalidInput: no calls, or nothing quantized in the model.
    """
    counter = _Counter(without_vnni(quantized).graph_module)
    num = 0
    with torch.inference_mode():
        for tensors in calls:
            counter.run(*tensors)
            num += 1
    if not num:
        raise InvalidInput("saturation: there is no data to count with")
    return tuple(
        Saturation(name, int(sums), int(saturated), lost / max(power, 1e-30))
        for name, (sums, saturated, lost, power) in counter.found.items()
    )


class _Counter(fx.Interpreter):
    """Interprets a model with pairs and adds up what they say."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found: dict[str, list[float]] = {}
        self.name = ""

    def run_node(self, n: fx.Node) -> Any:
        self.name = str(n.meta.get(NAME_KEY, n.name))
        return super().run_node(n)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        pairs = self.fetch_attr(target)
        if not isinstance(pairs, Pairs):
            return super().call_module(target, args, kwargs)
        x, out = args
        lost, saturated = pairs.lost(x)
        sums = num_patches(x, pairs.window) * pairs.num_sums
        parts = (sums, saturated, float(lost.square().sum()), float(out.square().sum()))
        known = self.found.get(self.name, [0.0] * 4)
        self.found[self.name] = [a + b for a, b in zip(known, parts, strict=True)]
        return out + lost


class Pairs(nn.Module):
    """The pairs of one operator's weights that can saturate, and what they lose on an input.

    Args:
        matrix: int8 weights [groups, out, in * kernel], channels innermost.
        scale: float32 [groups * out], input scale times weight scale.
        grid: scale and zero point of the input.
        window: how the operator reads its input.
    """

    risky: torch.Tensor
    weights: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self,
        matrix: torch.Tensor,
        scale: torch.Tensor,
        grid: tuple[float, int],
        window: Window,
    ) -> None:
        super().__init__()
        self.window, self.grid = window, grid
        self.groups, self.out, self.width = matrix.shape
        if self.width % 2:
            matrix = torch.cat([matrix, torch.zeros_like(matrix[..., :1])], -1)
        pairs = matrix.float().reshape(self.groups, self.out, -1, 2)
        self.num_sums = pairs.shape[:3].numel()
        up = pairs.clamp_min(0).sum(-1) > SAFE
        down = pairs.clamp_max(0).sum(-1) < -SAFE
        risky = (up | down).nonzero()
        self.register_buffer("risky", risky)
        self.register_buffer("weights", pairs[tuple(risky.T)])
        self.register_buffer("scale", scale)

    def forward(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """The operator's output with its sums saturated."""
        return out + self.lost(x)[0]

    def lost(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        """What saturation adds to the output for an input, and how many sums saturate."""
        count = num_patches(x, self.window)
        total = torch.zeros(count, self.groups * self.out)
        saturated = 0
        num = max(1, len(self.risky))
        width = min(num, _AT_ONCE // 64)
        step = max(1, _AT_ONCE // max(width, self.groups * self.width))
        for start in range(0, count if len(self.risky) else 0, step):
            chosen = torch.arange(start, min(count, start + step))
            patches = self._integers(x, chosen)
            for first in range(0, num, width):
                part = slice(first, first + width)
                group, out, pair = self.risky[part].T
                weights = self.weights[part]
                sums = patches[:, group, 2 * pair] * weights[:, 0]
                sums += patches[:, group, 2 * pair + 1] * weights[:, 1]
                over = sums.clamp(*INT16).sub_(sums)
                saturated += int((over != 0).sum())
                total[chosen[0] : chosen[-1] + 1].index_add_(1, group * self.out + out, over)
        return self._shaped(total * self.scale, x), saturated

    def _integers(self, x: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """The uint8 values of patches, as floats [rows, groups, width], channels innermost."""
        scale, zero = self.grid
        found = patches(x, self.window, self.groups, chosen)
        found = (found / scale).round_().add_(zero)
        found = _channels_innermost(found, self.window)
        # A pair of its own for the last product of an odd number: its partner's weight is zero.
        return torch.cat([found, torch.zeros_like(found[..., :1])], -1)

    def _shaped(self, total: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        if not self.window.kernel:
            return total.reshape(*x.shape[:-1], -1)
        return total.reshape(x.shape[0], *self.window.sizes(x), -1).movedim(-1, 1)


def _channels_innermost(matrix: torch.Tensor, window: Window) -> torch.Tensor:
    """The last axis from [channels, kernel] to [kernel, channels]."""
    taps = 1
    for size in window.kernel:
        taps *= size
    return matrix.reshape(*matrix.shape[:-1], -1, taps).transpose(-1, -2).flatten(-2)


def _pairs(module: fx.GraphModule, node: fx.Node) -> Pairs | None:
    """The pairs of an operator with stored int8 weights; None for others and for depthwise ones."""
    if node.op != "call_function" or not has_matrix(node):
        return None
    stored = node.args[1]
    if not isinstance(stored, fx.Node) or stored.target is not DEQUANTIZE:
        return None
    integers, weight_scale = (tensor_of(module, arg) for arg in stored.args[:2])
    grid = _grid(module, node.args[0])
    if integers is None or weight_scale is None or grid is None:
        return None
    window = window_of(node, integers)
    matrix = matrix_of(node, integers)
    if window.kernel and integers.shape[1] == 1 and matrix.shape[0] > 1:
        return None
    scale = (weight_scale * grid[0]).expand(matrix.shape[0] * matrix.shape[1])
    return Pairs(_channels_innermost(matrix, window), scale.clone(), grid, window)


def _grid(module: fx.GraphModule, node: Any) -> tuple[float, int] | None:
    """Scale and zero point of what a node holds, climbing over what only moves data."""
    while isinstance(node, fx.Node) and node.target is not DEQUANTIZE:
        node = node.args[0] if node.args else None
        node = node[0] if isinstance(node, list | tuple) else node
    if not isinstance(node, fx.Node):
        return None
    scale, zero = (tensor_of(module, arg) for arg in node.args[1:3])
    if scale is None or zero is None or scale.numel() != 1:
        return None
    return float(scale), int(zero)

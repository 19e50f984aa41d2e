"""The simulated CPU against integer loops, and half-range weights, which cannot saturate."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from burnish.errors import InvalidInput
from burnish.graph import Traced
from burnish.quantize import saturation, without_vnni
from tests.quantize.quick import folded, quantized, seen


def loud(layer: Any, seed: int = 0) -> Any:
    """A layer most of whose weights are near the largest, so that sums saturate often."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        shape = layer.weight.shape
        sign = torch.randint(0, 2, shape, generator=generator) * 2 - 1
        layer.weight.copy_(sign * (0.6 + 0.4 * torch.rand(shape, generator=generator)))
    return layer


def stored(model: Traced, dtype: torch.dtype, ends: str) -> torch.Tensor:
    """The one buffer of that type whose name ends so."""
    (found,) = (
        tensor
        for name, tensor in model.graph_module.named_buffers()
        if tensor.dtype == dtype and name.endswith(ends)
    )
    return found


def by_loops(
    model: Traced, conv: nn.Conv2d, x: torch.Tensor, saturate: bool
) -> tuple[torch.Tensor, int]:
    """The int32 accumulators of a convolution, pair by pair, channels innermost; and a count."""
    weight = stored(model, torch.int8, "conv2d_weight").int()
    scale = stored(model, torch.float32, "input_0_scale")
    zero = int(stored(model, torch.uint8, "input_0_zero"))
    q = ((x / scale).round() + zero).clamp(0, 255)
    padding, stride, dilation = int(conv.padding[0]), conv.stride[0], conv.dilation[0]
    q = F.pad(q, [padding] * 4, value=zero).int()
    kernel, inside = weight.shape[-1], weight.shape[1]
    size = (q.shape[2] - dilation * (kernel - 1) - 1) // stride + 1
    out = torch.zeros(x.shape[0], weight.shape[0], size, size, dtype=torch.int64)
    count = 0
    for n, o, i, j in itertools.product(*map(range, out.shape)):
        base = o // (weight.shape[0] // conv.groups) * inside
        products = [
            int(q[n, base + c, i * stride + a * dilation, j * stride + b * dilation])
            * int(weight[o, c, a, b])
            for a in range(kernel)
            for b in range(kernel)
            for c in range(inside)
        ]
        for first in range(0, len(products), 2):
            pair = sum(products[first : first + 2])
            kept = min(max(pair, -(2**15)), 2**15 - 1) if saturate else pair
            count += kept != pair
            out[n, o, i, j] += kept
    return out, count


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 2, 3, padding=1, stride=2),
        nn.Conv2d(4, 3, 2, dilation=2),
        nn.Conv2d(6, 4, 1, groups=2),
        nn.Conv2d(5, 2, 1),
    ],
    ids=["padded, odd channels", "dilated", "grouped", "odd in all"],
)
def test_saturates_what_integer_loops_saturate(conv: nn.Conv2d, runtime: str) -> None:
    loud(conv)
    x = torch.rand(2, conv.in_channels, 5, 5, generator=torch.Generator().manual_seed(1)) * 2 - 0.3
    model = folded(nn.Sequential(conv), x)
    result, _ = quantized(model, seen(model, (x,)), runtime, ranges="min-max")
    scale = stored(result, torch.float32, "conv2d_weight_scale").double()
    scale = (scale * stored(result, torch.float32, "input_0_scale").double()).reshape(1, -1, 1, 1)
    plain, none = by_loops(result, conv, x, saturate=False)
    kept, count = by_loops(result, conv, x, saturate=True)
    assert none == 0
    assert count > 5
    nodes = [n for n in without_vnni(result).graph_module.graph.nodes if n.op == "call_module"]
    assert len(nodes) == 1
    pairs: Any = without_vnni(result).graph_module.get_submodule(nodes[0].target)
    zero, step = pairs.grid[1], pairs.grid[0]
    real = (((x / step).round() + zero).clamp(0, 255) - zero) * step
    lost, saturated = pairs.lost(real)
    assert saturated == count
    torch.testing.assert_close(lost.double(), (kept - plain) * scale)
    (row,) = saturation(result, [(x,)])
    width = -(-conv.weight[0].numel() // 2)
    assert (row.saturated, row.sums) == (count, plain.numel() * width)
    assert 0 < row.share < 1
    assert row.error > 0


@pytest.mark.parametrize("dims", [2, 3])
def test_linear_layers_saturate_alike(dims: int) -> None:
    """On two axes, and as the matrix product that a linear layer on three becomes."""
    layer = loud(nn.Linear(7, 3))
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, *[4] * (dims - 2), 7, generator=generator)
    model = folded(nn.Sequential(layer), x)
    result, _ = quantized(model, seen(model, (x,)), ranges="min-max")
    (row,) = saturation(result, [(x,)])
    assert row.sums == x[..., 0].numel() * 3 * 4
    conv: Any = nn.Conv2d(7, 3, 1)
    with torch.no_grad():
        conv.weight.copy_(layer.weight[:, :, None, None])
        conv.bias.copy_(layer.bias)
    image = x.reshape(-1, 7, 1, 1)
    same = folded(nn.Sequential(conv), image)
    twin, _ = quantized(same, seen(same, (image,)), ranges="min-max")
    _, count = by_loops(twin, conv, image, saturate=True)
    assert row.saturated == count > 0


def network() -> Any:
    net: Any = nn.Sequential(
        loud(nn.Conv2d(3, 8, 3)),
        nn.ReLU(),
        loud(nn.Conv2d(8, 8, 3, groups=8)),
        nn.ReLU(),
        loud(nn.Conv2d(8, 4, 1)),
    )
    with torch.no_grad():
        for layer in (net[0], net[2], net[4]):
            layer.weight.abs_()
    return net


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_half_range_weights_never_saturate(runtime: str) -> None:
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.5
    model = folded(network(), x)
    statistics = seen(model, (x,))
    counts = {}
    for half in ("none", "first", "all"):
        weights = {"half_range": half}
        result, choices = quantized(model, statistics, runtime, weights=weights)
        rows = {row.operator: row.saturated for row in saturation(result, [(x,)])}
        assert list(rows) == ["0:conv2d", "4:conv2d"], "depthwise kernels do not pair"
        counts[half] = list(rows.values())
        marked = [r["operator"] for r in choices.plan["coverage"] if "half-range" in r["reason"]]
        assert len(marked) == {"none": 0, "first": 1, "all": 3}[half]
        with torch.no_grad():
            same = torch.equal(without_vnni(result)(x), result(x))
        assert same == (half == "all")
    assert min(counts["none"]) > 0
    assert counts["first"][0] == 0 < counts["first"][1]
    assert counts["all"] == [0, 0]


def test_what_is_not_quantized_and_no_data_are_refused() -> None:
    x = torch.rand(4, 3, 8, 8)
    model = folded(network(), x)
    with pytest.raises(InvalidInput, match="quantize it first"):
        without_vnni(model)
    result, _ = quantized(model, seen(model, (x,)))
    with pytest.raises(InvalidInput, match="no data"):
        saturation(result, [])

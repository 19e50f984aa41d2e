"""Bias correction: means are exact, the sequential one sees what came before, and is guarded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from burnish.graph import Traced, operator
from burnish.quantize._static.bias import ABSURD, mean_output, sequential_shift
from tests.quantize.quick import folded, quantized, seen

KINDS = {"conv1d", "conv2d", "conv_transpose2d", "linear"}
LAYERS: dict[str, Any] = {
    "linear": (nn.Linear(4, 3), [(5, 4), (2, 4)]),
    "sequences": (nn.Linear(4, 3), [(5, 7, 4), (2, 3, 4)]),
    "conv1d of two lengths": (nn.Conv1d(4, 3, 3, padding=1), [(5, 4, 9), (2, 4, 6)]),
    "padded": (nn.Conv2d(4, 6, 3, padding=2, stride=2, groups=2), [(3, 4, 7, 7), (2, 4, 7, 7)]),
    "transposed": (nn.ConvTranspose2d(4, 3, 3, stride=2), [(3, 4, 5, 5)]),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_the_mean_output_is_that_of_all_outputs(kind: str) -> None:
    layer, shapes = LAYERS[kind]
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator) + 1 for shape in shapes]
    model = folded(layer, inputs[0])
    node = next(n for n in model.graph_module.graph.nodes if operator(n) in KINDS)
    with torch.no_grad():
        found = mean_output(node, inputs, layer.weight, layer.bias)
        outputs = [layer(x) for x in inputs]
        axis = -1 if isinstance(layer, nn.Linear) else 1
        flat = torch.cat([out.movedim(axis, 0).flatten(1) for out in outputs], 1)
    torch.testing.assert_close(found.float(), flat.mean(1), rtol=1e-4, atol=1e-5)


def test_an_absurd_difference_is_not_corrected() -> None:
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(2, 3))
        layer.bias.zero_()
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    model = folded(layer, x)
    (node,) = (n for n in model.graph_module.graph.nodes if operator(n) == "linear")
    with torch.no_grad():
        other = x + torch.tensor([0.5, 3.0 * ABSURD, 0.0])
        shift, absurd = sequential_shift(
            node, [x], [other], (layer.weight, layer.weight), layer.bias
        )
    torch.testing.assert_close(shift, torch.tensor([0.5, 0.0], dtype=torch.float64))
    assert absurd == 1


def deep() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(4):
        conv = nn.Conv2d(8, 8, 3, padding=1)
        nn.init.kaiming_normal_(conv.weight)
        layers += [conv, nn.ReLU()]
    return nn.Sequential(nn.Conv2d(3, 8, 1), *layers, nn.Conv2d(8, 5, 1))


def means(result: Traced, model: Traced, x: torch.Tensor) -> float:
    with torch.no_grad():
        return float((result(x) - model(x)).mean((0, 2, 3)).abs().max())


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_sequential_correction_leaves_no_mean_error_at_the_end(runtime: str) -> None:
    """On what it was taken from; the fast one leaves what the layers before have caused."""
    x = torch.rand(32, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    model = folded(deep(), x)
    statistics = seen(model, (x,))
    errors = {
        kind: means(
            quantized(model, statistics, runtime, bias_correction=kind, weights={"bits": 4})[0],
            model,
            x,
        )
        for kind in ("none", "fast", "sequential")
    }
    assert errors["sequential"] < 0.1 * errors["fast"] < errors["none"]


def test_layers_without_a_bias_get_one() -> None:
    net = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False))
    x = torch.rand(32, 4, generator=torch.Generator().manual_seed(0)) + 1
    model = folded(net, x)
    for kind in ("fast", "sequential"):
        result, choices = quantized(model, seen(model, (x,)), bias_correction=kind)
        assert {f"bias:{name}" for name in ("0:linear", "2:linear")} <= set(choices.tensors)
        assert result(x).shape == (32, 3)
    assert F.mse_loss(result(x), model(x)) < 1e-3

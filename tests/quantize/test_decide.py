"""Bias correction and equalization do what they say, to the float function and to the int8 one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from burnish.core import Choices
from burnish.errors import InvalidInput
from burnish.graph import Traced, operator, operator_names, tensor_of
from burnish.quantize import QuantizeStatic
from burnish.quantize._rescaling.equalize import LARGEST_GAIN, depthwise_pairs, gains
from burnish.quantize._static.insert import gained
from tests.quantize.quick import folded, quantized, seen

RUNTIMES = ("onnxruntime", "openvino")


def mean_error(result: Traced, model: Traced, x: torch.Tensor) -> torch.Tensor:
    """The mean over the data of each channel's error, float64."""
    with torch.no_grad():
        error = (result(x) - model(x)).double()
    mean: torch.Tensor = error.mean([axis for axis in range(error.dim()) if axis != 1])
    return mean


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    "layer",
    [nn.Linear(6, 5), nn.Conv2d(6, 8, 1), nn.Conv2d(6, 6, 1, groups=6), nn.Conv1d(6, 4, 1)],
    ids=["linear", "conv", "depthwise", "conv1d"],
)
def test_bias_correction_takes_the_mean_error_of_rounded_weights_off(layer, runtime) -> None:
    """What is left of the mean error comes from rounding inputs and outputs, not from weights.

    Coarse weights, made so by one large one a channel, and inputs far from zero: without the
    correction the mean error is many times larger.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
        if layer.weight.shape[1] > 1:
            layer.weight[:, 0] = 60.0
    x = torch.rand(256, 6, *[3] * (layer.weight.dim() - 2), generator=generator) + 4
    model = folded(layer, x)
    statistics = seen(model, (x,))
    _, plain = quantized(model, statistics, runtime, bias_correction="none")
    _, choices = quantized(model, statistics, runtime)
    (name,) = plain.plan["operators"]
    weight = layer.weight.detach().double()
    scale = weight.abs().flatten(1).amax(1).div(127).float().double()
    grid = scale.reshape(-1, *[1] * (weight.dim() - 1))
    rounded = (weight / grid).round().clamp(-127, 127) * grid
    others = [a for a in range(x.dim()) if a != 1]
    mean = x.double().mean(others)
    error = (rounded - weight).flatten(1)
    shift = error[:, 0] * mean if layer.weight.shape[1] == 1 else error @ mean
    corrected = choices.tensors[f"bias:{name}"].double()
    assert f"bias:{name}" not in plain.tensors
    np.testing.assert_allclose(
        corrected, layer.bias.detach().double() - shift, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_bias_correction_reduces_the_mean_error_of_a_network(runtime: str) -> None:
    generator = torch.Generator().manual_seed(0)
    layers = [nn.Conv2d(6, 12, 1, bias=False), nn.Conv2d(12, 8, 1)]
    net = nn.Sequential(layers[0], nn.ReLU(), layers[1])
    with torch.no_grad():
        for layer in layers:
            layer.weight.copy_(torch.rand(layer.weight.shape, generator=generator))
            layer.weight[:, 0] = 20.0
    x = torch.rand(64, 6, 5, 5, generator=generator) + 3
    model = folded(net, x)
    statistics = seen(model, (x,))
    off, _ = quantized(model, statistics, runtime, bias_correction="none")
    on, _ = quantized(model, statistics, runtime)
    assert mean_error(on, model, x).norm() < 0.3 * mean_error(off, model, x).norm()


def separable(ceiling: float | None) -> nn.Module:
    """A pointwise and a depthwise convolution, the channels between of sizes from 1/40 to 1."""
    activation = nn.ReLU() if ceiling is None else nn.Hardtanh(0.0, ceiling)
    first, depthwise = nn.Conv2d(4, 12, 1), nn.Conv2d(12, 12, 3, stride=2, groups=12)
    net = nn.Sequential(
        first,
        activation,
        nn.ZeroPad2d((0, 1, 0, 1)),
        depthwise,
        nn.ReLU(),
        nn.Conv2d(12, 5, 1),
    )
    sizes = torch.logspace(-1.6, 0, 12)
    with torch.no_grad():
        first.weight.mul_(sizes.reshape(-1, 1, 1, 1))
        depthwise.weight.div_(sizes.reshape(-1, 1, 1, 1))
        if first.bias is not None:
            first.bias.mul_(sizes)
    return net.eval()


def equalized_in_float(model: Traced, choices: Choices) -> Traced:
    """The float graph with the gains in its weights, and ReLU where the plan has put it."""
    result = model.copy()
    nodes = {name: node for node, name in operator_names(result.graph_module).items()}
    for producer, activation, depthwise in choices.plan["equalized"]:
        gain = choices.tensors[f"gain:{producer}"]
        for name, up, down in ((producer, gain, None), (depthwise, None, gain)):
            weight, bias = (tensor_of(result.graph_module, a) for a in nodes[name].args[1:3])
            assert weight is not None
            assert bias is not None
            new_weight, new_bias = gained(weight, bias, up, down)
            assert new_bias is not None
            with torch.no_grad():
                weight.copy_(new_weight)
                bias.copy_(new_bias)
        if activation is not None:
            nodes[activation].target = torch.ops.aten.relu.default
            nodes[activation].args = nodes[activation].args[:1]
    result.graph_module.recompile()
    return result


@pytest.mark.parametrize("ceiling", [None, 6.0])
def test_equalization_leaves_the_float_function_unchanged(ceiling) -> None:
    """On what calibration saw: nothing there reaches the lifted clip."""
    torch.manual_seed(1)
    x = torch.randn(16, 4, 9, 9)
    model = folded(separable(ceiling), x)
    _, choices = quantized(model, seen(model, (x,)))
    assert choices.plan["equalized"] == [["0:conv2d", choices.plan["equalized"][0][1], "3:conv2d"]]
    gain = choices.tensors["gain:0:conv2d"]
    assert float(gain.max()) > 10
    with torch.no_grad():
        torch.testing.assert_close(equalized_in_float(model, choices)(x), model(x))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("ceiling", [None, 6.0])
def test_equalization_helps_where_channels_differ(ceiling, runtime: str) -> None:
    torch.manual_seed(1)
    x = torch.randn(32, 4, 9, 9)
    model = folded(separable(ceiling), x)
    statistics = seen(model, (x,))
    off, without = quantized(model, statistics, runtime, equalize=False)
    on, choices = quantized(model, statistics, runtime)
    assert without.plan["equalized"] == []
    assert len(choices.plan["equalized"]) == 1
    with torch.no_grad():
        wanted = model(x)
        before, after = (F.mse_loss(result(x), wanted) for result in (off, on))
    assert after < 0.25 * before


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_quantizer_does_the_work_of_the_clip_it_replaced(runtime: str) -> None:
    """ReLU in place of ReLU6 is right only while nothing above 6 can come out of the quantizer."""
    torch.manual_seed(1)
    x = torch.randn(16, 4, 9, 9)
    model = folded(separable(6.0), x)
    result, choices = quantized(model, seen(model, (x,)), runtime)
    entry = choices.plan["quantizers"]["1:hardtanh"]
    assert entry["zero_point"] == 0
    assert 255 * entry["scale"] <= 6.0
    kinds = {operator(node) for node in result.graph_module.graph.nodes}
    assert not kinds & {"hardtanh", "relu"}


def test_gains_are_bounded_and_quiet_channels_keep_theirs() -> None:
    high = torch.tensor([160.0, 1.0, 10.0, 0.0, 20.0])
    gain = gains(torch.zeros(5), high)
    assert gain is not None
    assert gain.tolist() == [1.0, LARGEST_GAIN, 8.0, 1.0, 4.0]
    assert float((gain * high).max()) == 160.0
    assert gains(torch.zeros(4), torch.ones(4)) is None
    assert gains(torch.zeros(4), torch.zeros(4)) is None
    signed = gains(torch.tensor([-8.0, -1.0, -2.0]), torch.tensor([1.0, 0.5, 1.0]))
    assert signed is not None
    assert signed.tolist() == [1.0, 4.0, 2.0]


class NotPairs(nn.Module):
    """Depthwise convolutions that must not be equalized with what is before them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1)
        self.c, self.d = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1)
        self.depthwise = nn.ModuleList(nn.Conv2d(6, 6, 3, groups=6) for _ in range(4))
        self.multiplied = nn.Conv2d(6, 12, 3, groups=6)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        a = F.relu(self.a(x))  # read twice
        b = F.silu(self.b(x))  # does not commute
        c = F.hardtanh(self.c(x), -1, 1)  # clips below zero
        d = F.pad(self.d(x), (1, 1, 1, 1), value=0.5)  # pads with more than zero
        one, two, three, four = self.depthwise
        return one(a) + a[..., 2:, 2:], two(b), three(c), four(d), self.multiplied(a)


def test_pairs_are_only_those_where_nothing_is_traded_off() -> None:
    model = folded(NotPairs(), torch.randn(2, 3, 8, 8))
    assert depthwise_pairs(model.graph_module) == ()
    (pair,) = depthwise_pairs(folded(separable(6.0), torch.randn(2, 4, 8, 8)).graph_module)
    assert [operator(n) for n in (pair.producer, pair.depthwise)] == ["conv2d", "conv2d"]
    assert pair.axis == 1


def test_a_plan_of_another_model_is_refused() -> None:
    x = torch.randn(4, 3, 8, 8)
    model = folded(nn.Sequential(nn.Conv2d(3, 4, 3)), x)
    _, choices = quantized(model, seen(model, (x,)))
    other = folded(nn.Conv2d(3, 4, 3), x)
    with pytest.raises(InvalidInput, match=r"0:conv2d.*another model"):
        QuantizeStatic().rewrite(other, choices)

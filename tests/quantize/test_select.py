"""Ranges chosen by the outputs they lead to: the oracle runs each candidate by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from burnish.errors import InvalidInput
from burnish.graph import Traced, flatten_call
from burnish.quantize import calibrate
from burnish.quantize._calibration.range import METHODS, Method, Params, choose_range
from burnish.quantize._calibration.sample import Sample
from burnish.quantize._graphs.place import place
from burnish.quantize._graphs.policy import policy_for
from burnish.quantize._static.select import Gain, select_ranges
from burnish.testing import catalogue
from tests import once
from tests.quantize.quick import folded, quantized


def chosen(model: Traced, statistics, runtime: str = "onnxruntime", **more) -> dict[str, Method]:
    placement = place(model.graph_module, policy_for(runtime))
    seen = {group: statistics.histograms[group] for group in placement.groups.values()}
    return select_ranges(model, placement, seen, statistics, symmetric=False, **more)


def through(x: torch.Tensor, grid: Params) -> torch.Tensor:
    q = (x / grid.scale).round().clamp(-grid.zero_point, 255 - grid.zero_point)
    return q * grid.scale


def spiky(num: int = 32) -> torch.Tensor:
    """Normal, but for one element in 500 that is 60 times as large."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num, 8, generator=generator)
    return torch.where(torch.rand(num, 8, generator=generator) < 0.002, 60 * x, x)


def linear(weight: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight)
    return layer


def test_the_method_with_the_least_output_error_wins() -> None:
    """Against each method tried by hand, with weights that 8 bits hold exactly."""
    weight = torch.randint(-127, 128, (4, 8), generator=torch.Generator().manual_seed(1)) / 1.0
    weight[:, 0] = 127
    model = folded(linear(weight), torch.zeros(2, 8))
    x = spiky()
    statistics = calibrate(model, [(x,)])
    hist = statistics.histograms["input:0"]
    errors = {
        m: float(((through(x, choose_range(hist, m, False)) - x) @ weight.T).square().sum())
        for m in METHODS
    }
    method = chosen(model, statistics)["input:0"]
    assert errors[method] <= 1.02 * min(errors.values())


def test_outliers_that_nothing_reads_are_clipped_and_those_that_count_are_kept() -> None:
    """Channel 0 alone holds large values. With no weight on it, its own error does not matter."""
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    x[:, 0] = 0
    x[3, 0] = 40.0
    weight = torch.ones(4, 8)
    ranges = {}
    for name, first in (("read", 1.0), ("unread", 0.0)):
        weight[:, 0] = first
        model = folded(linear(weight.clone()), torch.zeros(2, 8))
        statistics = calibrate(model, [(x,)])
        method = chosen(model, statistics)["input:0"]
        ranges[name] = choose_range(statistics.histograms["input:0"], method, False).high
    assert ranges["read"] > 36
    assert ranges["unread"] < 5


def test_what_no_product_reads_is_left_to_its_own_error() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(3, 3, 1) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.c(self.a(x) + self.b(x))
            return y

    x = torch.randn(8, 3, 6, 6)
    model = folded(Sum(), x)
    methods = chosen(model, calibrate(model, [(x,)]))
    assert methods["a:conv2d"] == methods["b:conv2d"] == "squared error"
    assert set(methods.values()) <= set(METHODS)


def test_a_gain_is_taken_into_account() -> None:
    """A value scaled by k before its quantizer, and the weights by 1/k, is judged as it will be."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4)).eval()
    x = torch.randn(16, 3, 8, 8)
    model = folded(net, x)
    statistics = calibrate(model, [(x,)])
    plain = chosen(model, statistics)
    gains = {"1:relu": Gain(1, torch.ones(4))}
    assert chosen(model, statistics, gains=gains) == plain


def test_without_samples_it_is_refused() -> None:
    model = folded(nn.Linear(4, 3), torch.randn(4, 4))
    statistics = replace(calibrate(model, [(torch.randn(4, 4),)]), sample=Sample((0,)))
    with pytest.raises(InvalidInput, match="kept none"):
        chosen(model, statistics)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", ["separable", "attention_split", "gru", "two_inputs"])
def test_any_network_is_quantized_per_layer(name: str, runtime: str) -> None:
    """Convolutions, products of two activations, recurrent layers, several inputs."""
    tiny = {tiny.name: tiny for tiny in catalogue()}[name]
    model = once.folded(tiny)
    call = tiny.inputs(16, seed=0)
    statistics = calibrate(model, [flatten_call(call.args, call.kwargs)])
    result, choices = quantized(model, statistics, runtime, ranges="per layer")
    again = quantized(model, statistics, runtime, ranges="per layer")[1]
    assert choices.plan == again.plan
    tensors = result(*call.args, **call.kwargs)
    for tensor in tensors if isinstance(tensors, tuple) else (tensors,):
        assert not isinstance(tensor, torch.Tensor) or bool(torch.isfinite(tensor).all())

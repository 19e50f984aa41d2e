"""What is wrong with a model or its data: refused by name, or quantized and said."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from burnish.errors import InvalidInput
from burnish.graph import operator_names
from burnish.quantize import QuantizeStatic, quantize_static
from tests.quantize.quick import folded, quantized, reasons, seen, states

SETTINGS = [{}, {"bias_correction": "sequential"}, {"weights": {"rounding": "learned"}}]
RUNTIMES = ("onnxruntime", "openvino")


def finite(result: nn.Module, x: torch.Tensor) -> bool:
    with torch.no_grad():
        return bool(torch.isfinite(result(x)).all())


@pytest.mark.parametrize("settings", SETTINGS, ids=["fast", "sequential", "learned"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_dead_and_constant_channels(runtime: str, settings: dict) -> None:
    """A constant input channel, a dead ReLU, a channel of zero weights: near the float model."""
    torch.manual_seed(0)
    net: Any = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(), nn.Conv2d(6, 4, 1)
    )
    with torch.no_grad():
        net[0].weight[1] = 0
        net[0].bias[2] = -100.0
        net[2].weight[3] = 0
    x = torch.rand(16, 3, 9, 9)
    x[:, 1] = 0.5
    model = folded(net, x)
    result, choices = quantized(model, seen(model, (x,)), runtime, **settings)
    assert set(states(choices).values()) <= {"int8", "fused"}
    with torch.no_grad():
        wanted = model(x)
        assert F.mse_loss(result(x), wanted) < 1e-3 * wanted.square().mean()


@pytest.mark.parametrize("settings", SETTINGS[:2], ids=["fast", "sequential"])
def test_one_sample_will_do(settings: dict) -> None:
    net: Any = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1))
    x = torch.randn(1, 3, 8, 8)
    model = folded(net, torch.randn(2, 3, 8, 8))
    result, _ = quantized(model, seen(model, (x,)), **settings)
    assert finite(result, torch.randn(4, 3, 8, 8))


def test_one_sample_is_too_few_to_learn_from() -> None:
    model = folded(nn.Linear(4, 3), torch.randn(2, 4))
    with pytest.raises(InvalidInput, match="8 different calibration samples"):
        quantized(model, seen(model, (torch.randn(1, 4),)), weights={"rounding": "learned"})


def test_all_zero_weights_stay_float() -> None:
    net: Any = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    nn.init.zeros_(net[0].weight)
    model = folded(net, torch.randn(2, 4))
    _, choices = quantized(model, seen(model, (torch.randn(16, 4),)))
    assert states(choices) == {"0:linear": "float", "1:linear": "int8"}
    assert reasons(choices)["0:linear"] == "its weights are all zero"


def test_infinite_activations_are_refused_by_name() -> None:
    net: Any = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    with torch.no_grad():
        net[0].bias[0] = float("inf")
    model = folded(net, torch.randn(2, 4))
    with pytest.raises(InvalidInput, match="0:linear is not finite"):
        seen(model, (torch.randn(16, 4),))


class Twice(nn.Module):
    """One layer used twice, and two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.tied, self.last = (nn.Linear(6, 6) for _ in range(4))
        self.tied.weight = self.again.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.again(F.relu(self.first(x))))
        out: torch.Tensor = self.last(F.relu(self.tied(F.relu(self.again(x)))))
        return out


@pytest.mark.parametrize("settings", SETTINGS, ids=["fast", "sequential", "learned"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_tied_weights_are_stored_once(runtime: str, settings: dict) -> None:
    torch.manual_seed(0)
    x = torch.rand(32, 6)
    model = folded(Twice(), x)
    result, choices = quantized(model, seen(model, (x,)), runtime, **settings)
    weights = [t for t in result.graph_module.buffers() if t.dtype == torch.int8 and t.dim() == 2]
    assert len(weights) == 3, "of five operators"
    names = set(operator_names(model.graph_module).values())
    assert {"again:linear", "again:linear#2", "tied:linear"} <= names & set(
        choices.plan["operators"]
    )
    assert F.mse_loss(result(x), model(x)) < 1e-4
    if "weights" in settings:
        assert "tied to another" in reasons(choices)["tied:linear"]


def test_a_quantized_model_is_refused() -> None:
    x = torch.randn(16, 4)
    model = folded(nn.Linear(4, 3), x)
    result, _ = quantized(model, seen(model, (x,)))
    statistics = seen(model, (x,))
    with pytest.raises(InvalidInput, match="quantized already"):
        QuantizeStatic().choose_from(result, statistics)
    with pytest.raises(InvalidInput, match="quantized already"):
        quantize_static(result, [x])


@pytest.mark.parametrize("setting", ["exclude", "include"])
def test_a_pattern_that_matches_nothing_is_an_error(setting: str) -> None:
    x = torch.randn(16, 4)
    model = folded(nn.Linear(4, 3), x)
    with pytest.raises(InvalidInput, match="encoder"):
        quantized(model, seen(model, (x,)), **{setting: ("encoder.*",)})  # type: ignore[arg-type]

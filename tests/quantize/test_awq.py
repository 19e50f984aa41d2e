"""AWQ's factors against a search over outputs in float64, and over a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from burnish.errors import InvalidInput
from burnish.graph import Traced, finish, operator_names
from burnish.quantize._blocks.awq import ALPHAS, awq_scales, factors
from burnish.quantize._blocks.awq_layers import awq_groups
from burnish.quantize._blocks.round import BlockSpec, dequantize_rounded, round_nearest
from burnish.quantize._rescaling.scale import scale_made, scale_read
from burnish.quantize._smooth.smooth import sampled
from tests.quantize.quick import folded

SPEC = BlockSpec(4, 16)


def uneven(count: int, width: int, seed: int = 0) -> torch.Tensor:
    """Rows of which a few channels are much larger than the rest."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, width, generator=generator)
    x[:, ::11] *= 20.0
    return x


def outputs_error(x: torch.Tensor, weight: torch.Tensor, factor: torch.Tensor) -> float:
    rounded = dequantize_rounded(round_nearest(weight * factor, SPEC), SPEC).double()
    got = (x.double() / factor) @ rounded.T
    return float((got - x.double() @ weight.double().T).square().sum())


def test_it_finds_the_best_of_the_grid() -> None:
    torch.manual_seed(0)
    x, weight = uneven(300, 48), torch.randn(12, 48)
    magnitude = x.abs().mean(0)
    found = awq_scales(weight, SPEC, x.T @ x, magnitude)
    candidates = {alpha: factors(magnitude, alpha) for alpha in (0.0, *ALPHAS)}
    slow = {alpha: outputs_error(x, weight, f) for alpha, f in candidates.items()}
    best = min(slow, key=lambda alpha: slow[alpha])
    assert found.alpha == best > 0
    assert torch.equal(found.factor, candidates[best])
    assert found.error == pytest.approx(slow[best], rel=1e-3)
    assert found.error_off == pytest.approx(slow[0.0], rel=1e-3)


def test_factors_are_the_magnitudes_to_a_power() -> None:
    magnitude = torch.tensor([1.0, 4.0, 0.0, 16.0])
    found = factors(magnitude, 0.5)
    torch.testing.assert_close(found, torch.tensor([0.5, 1.0, 1.0, 2.0]))
    assert torch.equal(factors(torch.zeros(3), 0.5), torch.ones(3))


def test_equal_channels_are_left_alone() -> None:
    torch.manual_seed(0)
    weight = torch.randn(8, 32)
    found = awq_scales(weight, SPEC, torch.eye(32), torch.ones(32))
    assert found.alpha == 0.0
    assert torch.equal(found.factor, torch.ones(32))


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(InvalidInput, match="reads 32 inputs"):
        awq_scales(torch.randn(8, 32), SPEC, torch.eye(16), torch.ones(32))


class Blocks(nn.Module):
    """Layer norms in front of linear layers, a ReLU and a GELU between others, and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.second = nn.LayerNorm(32), nn.LayerNorm(32)
        self.joined, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.up, self.down = nn.Linear(32, 48), nn.Linear(48, 32)
        self.wide, self.narrow = nn.Linear(32, 48), nn.Linear(48, 8)
        with torch.no_grad():
            for norm in (self.norm, self.second):
                norm.weight[::7] *= 12.0
            self.up.weight[::5] *= 15.0
            self.joined.weight[64::5] *= 9.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.joined(self.norm(x)).chunk(3, -1)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v))
        x = x + self.down(F.relu(self.up(self.second(x))))
        out: torch.Tensor = self.narrow(F.gelu(self.wide(x)))
        return out


def linears(model: Traced) -> list[str]:
    return [name for name in operator_names(model.graph_module).values() if "linear" in name]


def scaled(model: Traced, groups: Sequence) -> Traced:
    """The float network with all factors put in."""
    result = model.copy()
    module = result.graph_module
    nodes = {name: node for node, name in operator_names(module).items()}
    for group in groups:
        scale_made(module, nodes[group.producer], group.made)
        for name in group.readers:
            scale_read(module, nodes[name], group.scale)
    finish(module)
    return result


def test_a_network_keeps_its_function_and_rounds_better() -> None:
    torch.manual_seed(0)
    model, x = Blocks().eval(), torch.randn(64, 6, 32)
    network = folded(model, x[:4])
    found = awq_groups(network, sampled(network, [(x,)]), linears(network), SPEC)
    homes = {group.readers: group.producer for group in found.groups}
    assert homes[("joined:linear",)] == "norm:layer_norm"
    assert homes[("up:linear",)] == "second:layer_norm"
    assert homes[("down:linear",)] == "up:linear"
    assert homes[("out:linear",)] == "joined:linear"
    assert "gelu" in found.left["narrow:linear"]
    assert "wide:linear" in found.left
    assert all(group.error < 1.0 and group.alpha > 0 for group in found.groups)
    values = next(group for group in found.groups if group.producer == "joined:linear")
    assert torch.equal(values.made[:64], torch.ones(64))  # queries and keys stay
    with torch.no_grad():
        torch.testing.assert_close(scaled(network, found.groups)(x), model(x), rtol=1e-3, atol=1e-4)
    unseen = torch.randn(64, 6, 32)
    assert deviation(scaled(network, found.groups), model, unseen) < 0.8 * deviation(
        network.copy(), model, unseen
    )


def deviation(network: Traced, model: nn.Module, x: torch.Tensor) -> float:
    """The squared error of the outputs with all linear weights rounded to nearest."""
    module = network.graph_module
    for node, name in operator_names(module).items():
        if "linear" in name:
            stored: Any = node.args[1]
            path, _, leaf = str(stored.target).rpartition(".")
            owner = module.get_submodule(path)
            weight = getattr(owner, leaf)
            with torch.no_grad():
                weight.copy_(dequantize_rounded(round_nearest(weight, SPEC), SPEC))
    with torch.no_grad():
        return float((network(x) - model(x)).square().sum())


def test_layers_that_stay_float_do_not_choose_but_are_scaled() -> None:
    torch.manual_seed(0)
    model, x = Blocks().eval(), torch.randn(32, 6, 32)
    network = folded(model, x[:4])
    sample = sampled(network, [(x,)])
    found = awq_groups(network, sample, ["up:linear"], SPEC)
    assert [group.readers for group in found.groups] == [("up:linear",)]
    assert not found.left

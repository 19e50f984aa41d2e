"""The penalty on channels: against its formula in float64, its gradients, and what is refused."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import nn

from burnish.errors import InvalidInput, NoEffect
from burnish.graph import Traced, trace
from burnish.prune import GroupPenalty, group_penalty

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)).double()


class Net(nn.Module):
    """A residual stream of six channels, and a grouped convolution inside the branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.first = nn.Conv2d(6, 8, 1)
        self.second = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.third = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.third(self.second(self.first(x).relu()).relu())
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


def _net() -> Net:
    torch.manual_seed(0)
    return Net().double().eval()


@pytest.fixture(scope="module")
def traced() -> Traced:
    return trace(_net(), (X,))


def _vectors(net: Net) -> list[torch.Tensor]:
    """For each group of channels its entries, [channels, entries], written down by hand.

    A grouped convolution loses the same channels of each of its two groups: four pairs at its
    inputs and four at its outputs.
    """
    stem, first, second, third, head = (
        layer.weight for layer in (net.stem, net.first, net.second, net.third, net.head)
    )
    stream = [stem.flatten(1), first[:, :, 0, 0].T, third.flatten(1), head.T]
    paired = [torch.stack([first[i], first[i + 4]]).flatten() for i in range(4)]
    read = [second[:, i].flatten() for i in range(4)]
    made = [torch.stack([second[i], second[i + 4]]).flatten() for i in range(4)]
    reads = [torch.stack([third[:, i], third[:, i + 4]]).flatten() for i in range(4)]
    return [
        torch.cat(stream, 1),
        torch.stack([torch.cat([a, b]) for a, b in zip(paired, read, strict=True)]),
        torch.stack([torch.cat([a, b]) for a, b in zip(made, reads, strict=True)]),
    ]


def _lasso(net: Net) -> torch.Tensor:
    groups = _vectors(net)
    return torch.stack([math.sqrt(v.shape[1]) * v.norm(dim=1).sum() for v in groups]).sum()


def _norm(net: Net) -> torch.Tensor:
    total = torch.zeros(()).double()
    for vectors in _vectors(net):
        norms = vectors.norm(dim=1).detach()
        far = (norms.max() - norms) / (norms.max() - norms.min())
        total = total + (2 ** (4 * far) * vectors.square().sum(1)).sum()
    return total


@pytest.mark.parametrize("kind", ["lasso", "norm"])
def test_it_is_its_formula_on_the_module_and_on_the_graph(kind: str, traced: Traced) -> None:
    net = _net()
    penalty = group_penalty(traced, X, 0.3, kind=kind)
    expected = 0.3 * (_lasso(net) if kind == "lasso" else _norm(net))
    expected.backward()
    value = penalty(net)
    assert value.dtype == torch.float64
    assert torch.allclose(value, expected, rtol=1e-12)
    found = dict(zip(dict(net.named_parameters()), _gradients(value, net), strict=True))
    for name, parameter in net.named_parameters():
        gradient = found[name]
        assert (gradient is None) == (parameter.grad is None), name
        if gradient is not None:
            assert parameter.grad is not None
            assert torch.allclose(gradient, parameter.grad, rtol=1e-9, atol=1e-12), name
    assert torch.allclose(penalty(traced), expected, rtol=1e-12)


def _gradients(value: torch.Tensor, net: nn.Module) -> tuple[torch.Tensor | None, ...]:
    return torch.autograd.grad(value, list(net.parameters()), allow_unused=True)


def test_norms_are_those_of_the_channels(traced: Traced) -> None:
    net = _net()
    found = list(group_penalty(traced, X, 1.0).norms(net).values())
    for norms, vectors in zip(found, _vectors(net), strict=True):
        assert torch.allclose(norms, vectors.norm(dim=1))


@pytest.mark.parametrize("kind", ["lasso", "norm"])
@pytest.mark.parametrize("number", [0.0, 1.0])
def test_gradients_where_channels_are_zero_or_all_alike(
    kind: str, number: float, traced: Traced
) -> None:
    """At zero 0, one of the subgradients; with equal norms every channel counts once."""
    net = _net()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(number)
    value = group_penalty(traced, X, 0.5, kind=kind)(net)
    for gradient in _gradients(value, net):
        if gradient is not None:
            assert bool(torch.isfinite(gradient).all())
            assert bool((gradient == 0).all()) == (number == 0)
    squares = torch.stack([vectors.square().sum() for vectors in _vectors(net)]).sum()
    expected = _lasso(net) if kind == "lasso" else squares
    assert torch.allclose(value, 0.5 * expected)


def test_lasso_draws_wide_and_narrow_layers_with_one_force() -> None:
    """The gradient on an entry of the mean size is the strength, whatever the width."""
    for width in (4, 64):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(width, 6), nn.ReLU(), nn.Linear(6, 2, bias=False))
        value = group_penalty(net, torch.randn(2, width), 0.1)(net)
        (gradient,) = torch.autograd.grad(value, [net.get_parameter("0.weight")])
        weight = torch.cat([net.get_parameter("0.weight"), net.get_parameter("2.weight").T], 1)
        size = weight.square().mean(1, keepdim=True).sqrt()
        drawn = 0.1 * net.get_parameter("0.weight") / size
        assert torch.allclose(gradient, drawn, rtol=1e-5)


def test_growth_is_a_function_of_the_progress_alone(traced: Traced) -> None:
    net = _net()
    constant, linear = (group_penalty(traced, X, 0.2, growth=g) for g in ("constant", "linear"))
    whole = constant(net).item()
    assert [linear.at(p)(net).item() for p in (0.5, 0.0, 0.25)] == pytest.approx(
        [0.5 * whole, 0.0, 0.25 * whole]
    )
    assert constant.at(0.1)(net).item() == linear(net).item() == whole


def test_what_is_left_alone_is_told(traced: Traced) -> None:
    penalty = group_penalty(traced, X, 0.1, ignore=("second",))
    assert penalty.layers == ("stem:conv2d", "third:conv2d", "first:conv2d")
    assert penalty.left == {
        "second:conv2d": "ignore names 'second'",
        "head:linear": "it is an output of the model",
    }
    settings = penalty.settings()
    assert json.loads(json.dumps(settings))["ignore"] == ["second"]
    net = _net()
    gradient = torch.autograd.grad(penalty(net), [net.second.weight, net.third.weight])
    assert all(bool((one != 0).any()) for one in gradient)  # they read and make other channels


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "strength": ({"strength": 0.0}, r"strength=0\.0\): a finite number above 0"),
    "infinite": ({"strength": math.inf}, "a finite number above 0"),
    "kind": ({"kind": "elastic"}, "one of lasso, norm"),
    "growth": ({"growth": "cubic"}, "one of constant, linear"),
    "heads": ({"heads": "both"}, "one of whole, width"),
    "ignore": ({"ignore": "head"}, "give a tuple"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_out_of_range_are_refused(name: str) -> None:
    settings, message = REFUSED[name]
    with pytest.raises(InvalidInput, match=message):
        GroupPenalty(**{"strength": 0.1, **settings})


def test_a_penalty_of_another_model_is_refused(traced: Traced) -> None:
    with pytest.raises(
        InvalidInput, match=r"on the weight '\w+\.weight', which the model does not"
    ):
        group_penalty(traced, X, 0.1)(nn.Linear(2, 2))


def test_a_model_without_free_channels_says_why() -> None:
    with pytest.raises(NoEffect, match="it is an output of the model"):
        group_penalty(nn.Linear(2, 2), torch.randn(2, 2), 0.1)

"""Cross-layer equalization: the function stays, neighbours end equal, int8 gains what was lost."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from burnish.core import Candidate, Choices
from burnish.errors import InvalidInput, NoEffect
from burnish.graph import Traced, operator_names, tensor_of
from burnish.quantize import CrossLayerEqualization, coverage, equalize_cross_layer
from burnish.quantize._rescaling.scale import input_reach, output_reach
from burnish.testing import RewriteContract, Tiny, catalogue
from tests import once
from tests.quantize.preserving import models, same
from tests.quantize.quick import folded, quantized, reasons, seen

STEP = CrossLayerEqualization()
CONTRACT = ("shuffle", "transposed")


def equalized(model: Traced) -> tuple[Traced, Choices]:
    choices = STEP.choose_from(model)
    result = STEP.rewrite(model, choices)
    assert isinstance(result, Traced)
    return result, choices


@pytest.mark.parametrize("tiny", models())
def test_the_function_stays_on_the_whole_catalogue(tiny: Tiny) -> None:
    model = once.folded(tiny)
    try:
        result, choices = equalized(model)
    except NoEffect:
        return
    inputs = tiny.inputs(3, seed=1)
    assert same(tiny.call(model, inputs), tiny.call(result, inputs))
    assert {row.state for row in coverage(choices)} <= {"equalized", "left alone"}
    assert all(row.reason for row in coverage(choices))


def chain(widths: list[int], groups: int, leaky: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers.append(nn.Conv2d(before, after, 3, padding=1, groups=groups))
        layers.append(nn.LeakyReLU(0.1) if leaky else nn.ReLU())
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(widths[-1] * 4, 3))


@settings(max_examples=5, deadline=None)
@given(
    widths=st.lists(st.sampled_from([4, 8, 12]), min_size=2, max_size=4),
    groups=st.sampled_from([1, 2, 4]),
    leaky=st.booleans(),
    seed=st.integers(0, 999),
)
def test_the_function_stays_on_random_chains(
    widths: list[int], groups: int, leaky: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    x = torch.randn(3, widths[0], 4, 4)
    model = folded(chain(widths, groups, leaky), x)
    result, _ = equalized(model)
    with torch.no_grad():
        assert same(model(x), result(x))


def test_neighbours_end_equal() -> None:
    """What the method promises: the reach of a channel is the same in both layers."""
    torch.manual_seed(0)
    x = torch.randn(2, 6)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 4))
    result, choices = equalized(folded(net, x))
    nodes = {name: node for node, name in operator_names(result.graph_module).items()}
    assert [pair["second"] for pair in choices.plan["pairs"]] == ["2:linear", "4:linear"]
    for pair in choices.plan["pairs"]:
        first, second = nodes[pair["first"]], nodes[pair["second"]]
        one, two = (tensor_of(result.graph_module, n.args[1]) for n in (first, second))
        assert one is not None
        assert two is not None
        made, read = output_reach(first, one), input_reach(second, two)
        assert torch.allclose(made, read, rtol=5e-3)


def unbalanced() -> tuple[nn.Sequential, torch.Tensor]:
    """A network whose middle channels differ a thousandfold without need: the oracle is known."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval()
    factor = torch.logspace(-1.5, 1.5, 16)
    first, second = net[0], net[2]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.Conv2d)
    assert first.bias is not None
    with torch.no_grad():
        first.weight *= factor[:, None, None, None]
        first.bias *= factor
        second.weight /= factor[None, :, None, None]
    return net, torch.randn(64, 3, 10, 10)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_int8_gains_on_unbalanced_channels(runtime: str) -> None:
    net, x = unbalanced()
    model = folded(net, x)
    with torch.no_grad():
        wanted = model(x)
        errors = []
        for graph in (model, equalized(model)[0]):
            result, _ = quantized(graph, seen(graph, (x,)), runtime)
            errors.append(float((result(x) - wanted).square().mean()))
    assert errors[1] < 0.05 * errors[0]


def test_what_does_not_commute_is_left_alone_with_its_reason() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Conv2d(4, 4, 1) for _ in range(4))
            self.twice = nn.Conv2d(4, 4, 1)
            self.last = nn.Conv2d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = nn.functional.relu6(self.a(x))
            x = nn.functional.silu(self.b(x))
            x = self.c(nn.functional.relu(self.twice(x)))
            x = self.d(nn.functional.pad(self.twice(x), (1, 1), value=1.0))
            y: torch.Tensor = self.last(x) + x
            return y

    x = torch.randn(2, 4, 5, 5)
    with pytest.raises(NoEffect) as caught:
        STEP.choose_from(folded(Mixed(), x))
    text = str(caught.value)
    for line in (
        "a:conv2d: nothing with weights stands in front",
        "b:conv2d: relu6 before it does not commute",
        "twice:conv2d: its twice.weight is shared with another operator",
        "c:conv2d: the layer before: its twice.weight is shared",
        "d:conv2d: constant_pad_nd before it does not commute",
        "last:conv2d: its input is read by other operators, too",
    ):
        assert line.replace("constant_pad_nd", "pad") in text.replace("constant_pad_nd", "pad")


def test_dead_channels_keep_their_weights() -> None:
    net, x = unbalanced()
    first = net[0]
    assert isinstance(first, nn.Conv2d)
    with torch.no_grad():
        first.weight[3] = 0.0
    result, choices = equalized(folded(net, x))
    assert float(choices.tensors["made:2:conv2d"][3]) == 1.0
    with torch.no_grad():
        assert same(net(x), result(x))
        assert bool(torch.isfinite(result(x)).all())


def test_what_is_equal_already_is_no_effect() -> None:
    net, x = unbalanced()
    with pytest.raises(NoEffect, match="equal already"):
        STEP.choose_from(equalized(folded(net, x))[0])


def test_a_quantized_model_is_refused() -> None:
    net, x = unbalanced()
    model = folded(net, x)
    result, _ = quantized(model, seen(model, (x,)))
    with pytest.raises(InvalidInput, match="quantized already"):
        STEP.choose_from(result)


def test_a_plan_of_another_model_is_refused() -> None:
    net, x = unbalanced()
    choices = STEP.choose_from(folded(net, x))
    with pytest.raises(InvalidInput, match="another model"):
        STEP.rewrite(folded(nn.Sequential(nn.Flatten(), nn.Linear(300, 2)), x), choices)


def test_the_function_is_the_step() -> None:
    net, x = unbalanced()
    before = [p.clone() for p in net.parameters()]
    result = equalize_cross_layer(net, x)
    with torch.no_grad():
        assert same(net(x), result(x))
    assert all(torch.equal(p, q) for p, q in zip(before, net.parameters(), strict=True))


class TestContract(RewriteContract):
    def step(self) -> CrossLayerEqualization:
        return CrossLayerEqualization()

    def candidate(self, tiny: Tiny) -> Candidate:
        return Candidate(once.folded(tiny))

    def tinies(self) -> Iterable[Tiny]:
        return [tiny for tiny in catalogue() if tiny.name in CONTRACT]

    def names_in(self, choices: Choices) -> Iterable[str]:
        pairs = [name for p in choices.plan["pairs"] for name in (p["first"], p["second"])]
        return [*pairs, *(row["operator"] for row in choices.plan["coverage"])]


@pytest.mark.slow
class TestContractEverywhere(TestContract):
    def tinies(self) -> Iterable[Tiny]:
        return catalogue()


def test_reasons_are_in_the_plan() -> None:
    net, x = unbalanced()
    choices = STEP.choose_from(folded(net, x))
    assert reasons(choices) == {
        "0:conv2d": "nothing with weights stands in front",
        "2:conv2d": "with 0:conv2d before it",
    }

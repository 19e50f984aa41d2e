"""The plain function, and the graph it gives: what is stored in it, and how it is called."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from burnish.core import settings_of
from burnish.errors import InvalidInput, NoEffect
from burnish.goal import Inputs
from burnish.graph import DEQUANTIZE, QUANTIZE, flatten
from burnish.quantize import QuantizeStatic, Weights, quantize_static
from burnish.testing import batches, catalogue
from tests import once

TINIES = {tiny.name: tiny for tiny in catalogue()}


@pytest.mark.parametrize("name", ["plain_cnn", "two_inputs", "encoder", "nested_output"])
def test_quantizes_from_batches_of_any_form(name: str) -> None:
    """A tensor, a tuple, keywords; the result is called like the model and is near it."""
    tiny = TINIES[name]
    data = batches(tiny, num=3, size=8)
    model = tiny.build()
    result = quantize_static(model, iter(data))
    inputs = tiny.inputs(3, seed=1)
    given, tree = flatten(tiny.call(result, inputs))
    wanted, same = flatten(tiny.call(model, inputs))
    assert tree == same
    for got, want in zip(given, wanted, strict=True):
        assert not torch.equal(got, want)
        assert float((got - want).norm()) < 0.25 * float((want - want.mean()).norm())


def test_time_first_data_comes_as_inputs() -> None:
    tiny = TINIES["gru"]
    data = [tiny.inputs(6, seed=seed) for seed in range(2)]
    assert all(isinstance(call, Inputs) for call in data)
    result = quantize_static(tiny.build(), data)
    assert [slot.shape for slot in result.inputs] == [(7, "batch", 6)]
    assert tiny.call(result, tiny.inputs(5)).shape == (7, 5, 5)


def test_a_first_batch_of_one_will_do() -> None:
    result = quantize_static(nn.Linear(4, 3), [torch.randn(1, 4), torch.randn(7, 4)])
    assert result(torch.randn(5, 4)).shape == (5, 3)


def test_the_model_and_its_mode_are_left_alone() -> None:
    model = TINIES["separable"].build().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    quantize_static(model, batches(TINIES["separable"], num=2, size=4))
    assert model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_no_data_and_bad_settings_are_refused() -> None:
    with pytest.raises(InvalidInput, match="empty"):
        quantize_static(nn.Linear(4, 3), [])
    with pytest.raises(NoEffect, match="normalisation"):
        quantize_static(nn.LayerNorm(4), [torch.randn(3, 4)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ranges": "median"}, "'squared error', 'min-max'"),
        ({"bias_correction": True}, "'fast', 'sequential', 'none'"),
        ({"exclude": "layer"}, "a tuple"),
        ({"weights": {"bits": 9}}, "from 2 to 8"),
        ({"weights": {"bits": True}}, "from 2 to 8"),
        ({"weights": {"rounding": "stochastic"}}, "'nearest', 'learned'"),
        ({"weights": {"half_range": "last"}}, "'none', 'first', 'all'"),
        ({"weights": {"groups": 2}}, "bits, rounding, half_range"),
        ({"weights": 4}, "bits, rounding, half_range"),
    ],
)
def test_settings_that_are_not_known_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        QuantizeStatic(**settings)


def test_settings_survive_json() -> None:
    step = QuantizeStatic(
        "openvino",
        "per layer",
        "sequential",
        False,
        ("0", "*.head"),
        Weights(4, "learned", "all"),
        ("attention",),
    )
    assert QuantizeStatic(**json.loads(json.dumps(settings_of(step)))) == step
    assert QuantizeStatic(weights={"bits": 4}).weights == Weights(4)  # type: ignore[arg-type]


def test_what_is_stored_is_integers() -> None:
    """int8 weights, int32 biases, uint8 activations; no float weight is kept beside them."""
    tiny = TINIES["separable"]
    result = quantize_static(tiny.build(), batches(tiny, num=2, size=4))
    state = result.graph_module.state_dict()
    weights = [t for t in state.values() if t.dtype == torch.int8 and t.dim() > 1]
    biases = [t for n, t in state.items() if t.dtype == torch.int32 and "_zero" not in n]
    layers = [m for m in tiny.build().modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert sorted(t.numel() for t in weights) == sorted(m.weight.numel() for m in layers)
    assert len(biases) == len(layers)
    floats = [t for t in state.values() if t.is_floating_point()]
    assert max(t.numel() for t in floats) <= 16, "only scales are left in float"
    graph = result.graph_module.graph
    quantizers = [node for node in graph.nodes if node.target is QUANTIZE]
    zeros = [result.graph_module.get_buffer(node.args[2].target) for node in quantizers]
    assert {zero.dtype for zero in zeros} == {torch.uint8}
    assert sum(node.target is DEQUANTIZE for node in graph.nodes) == len(
        [*quantizers, *weights, *biases]
    )


def test_rewriting_from_an_untraced_model_is_the_same() -> None:
    """Replay starts from the user's model: the plan says how to trace it."""
    for name in ("encoder", "gru", "two_inputs"):
        tiny = TINIES[name]
        goal = tiny.goal()
        step = QuantizeStatic("openvino")
        choices = step.choose(tiny.build(), goal)
        inputs = tiny.inputs(3, seed=4)
        traced = flatten(tiny.call(step.rewrite(once.traced(tiny), choices), inputs))[0]
        plain = flatten(tiny.call(step.rewrite(tiny.build(), choices), inputs))[0]
        assert all(torch.equal(a, b) for a, b in zip(traced, plain, strict=True))

"""Placement: every operator once, with a state and a reason; exclusions do what they say."""

from __future__ import annotations

import contextlib
import functools
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from burnish.errors import InvalidInput, NoEffect
from burnish.graph import Traced, flatten_call
from burnish.quantize import QuantizeStatic, Statistics, calibrate, coverage
from burnish.testing import Tiny, catalogue
from tests import once
from tests.quantize.quick import float_operators, folded, quantized, reasons, seen, states
from tests.runtimes.corners import CORNERS

RUNTIMES = ("onnxruntime", "openvino")
STATES = {"int8", "fused", "passes through", "float"}
MODELS = {tiny.name: tiny for tiny in (*catalogue(), *CORNERS)}


@functools.cache
def prepared(tiny: Tiny) -> tuple[Traced, Statistics]:
    model = once.folded(tiny)
    calls = [tiny.inputs(4, seed=seed) for seed in range(2)]
    return model, calibrate(model, [flatten_call(call.args, call.kwargs) for call in calls])


@pytest.mark.parametrize("name", MODELS)
def test_coverage_lists_every_operator_once(name: str) -> None:
    model, statistics = prepared(MODELS[name])
    for runtime in RUNTIMES:
        rows = coverage(QuantizeStatic(runtime).choose_from(model, statistics))
        assert [row.operator for row in rows] == float_operators(model)
        assert {row.state for row in rows} <= STATES
        assert all(row.reason for row in rows if row.state != "int8")
        assert any(row.state == "int8" for row in rows)


@pytest.mark.parametrize("name", MODELS)
def test_any_exclusion_leaves_a_graph_that_runs(name: str) -> None:
    """One calibration serves all: values that only an exclusion makes wanted were seen, too."""
    tiny = MODELS[name]
    model, statistics = prepared(tiny)
    operators, draw = float_operators(model), random.Random(name)
    inputs = tiny.inputs(3, seed=1)
    for runtime in RUNTIMES:
        for _ in range(4):
            exclude = tuple(draw.sample(operators, draw.randint(1, len(operators) // 2)))
            step = QuantizeStatic(runtime, exclude=exclude)
            with contextlib.suppress(NoEffect):
                choices = step.choose_from(model, statistics)
                tiny.call(step.rewrite(model, choices), inputs)
                assert {reasons(choices)[operator] for operator in exclude} == {"excluded"}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
        self.two = nn.Conv2d(8, 8, 1)
        self.twofold = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.twofold(F.relu(self.two(self.one(x))))
        return y


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("two:conv2d", {"two:conv2d"}),
        ("two", {"two:conv2d"}),
        ("one", {"one.0:conv2d", "one.1:relu", "one.2:conv2d"}),
        ("one.?:conv*", {"one.0:conv2d", "one.2:conv2d"}),
        ("two*", {"two:conv2d", "twofold:conv2d"}),
    ],
)
def test_exclude_takes_names_modules_and_patterns(pattern: str, expected: set[str]) -> None:
    x = torch.randn(4, 3, 8, 8)
    model = folded(Block(), x)
    _, choices = quantized(model, seen(model, (x,)), exclude=(pattern,))
    assert {name for name, reason in reasons(choices).items() if reason == "excluded"} == expected


def test_exclude_that_matches_nothing_is_refused() -> None:
    x = torch.randn(4, 3, 8, 8)
    model = folded(Block(), x)
    with pytest.raises(InvalidInput, match=r"'three'.*first names are: one\.0:conv2d"):
        quantized(model, seen(model, (x,)), exclude=("one", "three"))


def test_an_unknown_runtime_is_refused() -> None:
    with pytest.raises(InvalidInput, match="onnxruntime, openvino"):
        QuantizeStatic("eager")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_nothing_int8_has_its_reasons(runtime: str) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(4, 6, batch_first=True)
            self.norm = nn.LayerNorm(6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.norm(self.gru(x)[0]).softmax(-1)
            return y

    x = torch.randn(3, 5, 4)
    model = folded(Recurrent(), x)
    with pytest.raises(NoEffect) as caught:
        quantized(model, seen(model, (x,)), runtime)
    for word in ("recurrent", "gru:gru", "normalisation", "norm:layer_norm", "sensitive"):
        assert word in str(caught.value)


def test_other_floats_than_float32_stay() -> None:
    x = torch.randn(3, 4, dtype=torch.float64)
    model = folded(nn.Linear(4, 4).double(), x)
    with pytest.raises(NoEffect, match="computes in float64"):
        quantized(model, seen(model, (x,)))


class Computed(nn.Module):
    """Weights and biases that are computed, zero, or fine."""

    weight: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Linear(4, 5)
        self.zero = nn.Linear(5, 5)
        nn.init.zeros_(self.zero.weight)
        self.register_buffer("weight", torch.randn(5, 4))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        by_weight = F.linear(x, self.weight * x.mean(), None)
        by_bias = F.linear(x, self.weight, x.mean().expand(5))
        return by_weight, by_bias, self.zero(self.scale(x))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_is_computed_stays_float_and_right(runtime: str) -> None:
    x = torch.randn(6, 4)
    model = folded(Computed(), x)
    result, choices = quantized(model, seen(model, (x,)), runtime)
    found = reasons(choices)
    assert found["linear"] == "its weight is computed, not stored"
    assert found["linear#2"] == "its bias is computed, not stored"
    assert found["zero:linear"] == "its weights are all zero"
    assert states(choices)["scale:linear"] == "int8"
    for got, want in zip(result(x)[:2], model(x)[:2], strict=True):
        assert torch.equal(got, want)


def test_reasons_are_those_of_the_operator() -> None:
    """A sample of what is left out, and why."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3, padding=1)
            self.second = nn.Conv2d(6, 6, 3, padding=1)
            self.up = nn.ConvTranspose2d(6, 6, 2, stride=2, groups=2)
            self.last = nn.Conv2d(6, 6, 1)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            y = F.silu(self.conv(x))
            z = self.second(y * 2.0)
            up = self.last(self.up(z))
            return up, (z + F.avg_pool2d(y, 1)).mean(1), torch.sin(z)

    x = torch.randn(4, 3, 8, 8)
    model = folded(Mixed(), x)
    for runtime in RUNTIMES:
        _, choices = quantized(model, seen(model, (x,)), runtime)
        found = reasons(choices)
        assert "constant" in found["mul"]
        assert "grouped" in found["up:conv_transpose2d"] or runtime == "onnxruntime"
        assert runtime in found["up:conv_transpose2d"]
        assert found["mean"] == "a mean over other axes than all the spatial ones"
        assert found["sin"] == f"no int8 form of sin for {runtime}"
        assert found["add"] in ("what it reads is float", "nothing int8 reads its result")
    assert found["silu"] == "what it reads is read elsewhere, too" or "inside" in found["silu"]

"""Mixed precision: what it is made of, what it says each layer loses and costs, what it refuses."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from burnish.core import Allocation, Candidate, Choices, allocate
from burnish.errors import Infeasible, InvalidInput, NoEffect, Unsupported
from burnish.graph import Traced, flatten_call, operator_names
from burnish.quantize import (
    MixedPrecision,
    QuantizeStatic,
    QuantizeWeights,
    Statistics,
    Survey,
    calibrate,
    coverage,
    mixed_precision,
    survey,
)
from burnish.runtimes import export, load
from burnish.testing import RewriteContract, Tiny, catalogue
from tests import once
from tests.cards import run
from tests.quantize.quick import Call

ALL = ("float32", "int8", "int4")


class TestContract(RewriteContract):
    """Bytes made few under a limit on the loss: there is an answer on every model."""

    def step(self) -> MixedPrecision:
        return MixedPrecision(0.05, "openvino", ALL, "cost")

    def names_in(self, choices: Choices) -> Iterable[str]:
        plan = choices.plan
        return [*plan["precisions"], *(row["operator"] for row in plan["coverage"])]

    def candidate(self, tiny: Tiny) -> Candidate:
        return Candidate(once.traced(tiny))

    def tinies(self) -> Iterable[Tiny]:
        return [tiny for tiny in catalogue() if tiny.name in ("residual", "gru")]


@functools.cache
def prepared(name: str) -> tuple[Traced, Statistics, tuple[Call, ...]]:
    tiny = next(tiny for tiny in catalogue() if tiny.name == name)
    inputs = [tiny.inputs(8, seed=seed) for seed in range(2)]
    calls = tuple(flatten_call(call.args, call.kwargs) for call in inputs)
    model = once.folded(tiny)
    return model, calibrate(model, calls), calls


@functools.cache
def seen(name: str, runtime: str = "onnxruntime", precisions: tuple[str, ...] = ALL) -> Survey:
    model, statistics, _ = prepared(name)
    return survey(model, statistics, runtime, precisions)


def composed(name: str, precisions: dict[str, str]) -> Choices:
    """The choices for precisions given by the caller; the others stay in float."""
    model, statistics, _ = prepared(name)
    found = seen(name)
    given = Allocation({**found.uniform("float32"), **precisions}, 0.0, 0.0)
    options = found.options(lambda layer, precision: 0.0)
    return MixedPrecision(0.0, precisions=ALL).compose(model, statistics, found, options, given)


def outputs(model: Traced, calls: Iterable[Call]) -> list[torch.Tensor]:
    with torch.inference_mode():
        return [out for call in calls for out in model.graph_module(*call)]


def error_of(model: Traced, other: Traced, calls: tuple[Call, ...]) -> float:
    """The relative squared error of all outputs, the plain way."""
    pairs = list(zip(outputs(other, calls), outputs(model, calls), strict=True))
    error = sum(float((given - wanted).double().square().sum()) for given, wanted in pairs)
    return error / sum(float(wanted.double().square().sum()) for _, wanted in pairs)


# --- what it is made of


def test_it_is_static_quantization_and_then_weights_in_blocks() -> None:
    model, _, calls = prepared("encoder")
    int8 = ("feeds.0.0:linear", "attentions.1.output:linear")
    int4 = ("feeds.1.0:linear", "words:embedding")
    choices = composed("encoder", dict.fromkeys(int8, "int8") | dict.fromkeys(int4, "int4"))
    mixed = MixedPrecision(0.0, precisions=ALL).rewrite(model, choices)

    able = [layer.name for layer in seen("encoder").layers if "int8" not in layer.refused]
    static = QuantizeStatic(exclude=tuple(name for name in able if name not in int8))
    first = static.rewrite(model, static.choose_from(model, prepared("encoder")[1]))
    assert isinstance(first, Traced)
    weights = QuantizeWeights(include=int4)
    second = weights.rewrite(first, weights.choose_from(first))
    assert isinstance(second, Traced)
    assert isinstance(mixed, Traced)
    for mine, theirs in zip(outputs(mixed, calls), outputs(second, calls), strict=True):
        assert torch.equal(mine, theirs)
    states = {row.operator: row.state for row in coverage(choices)}
    assert {states[name] for name in int8} == {"int8"}
    assert {states[name] for name in int4} == {"int4 weights"}
    assert states["classifier:linear"] == "float"


def test_every_operator_has_one_leader_and_neighbours_are_known() -> None:
    model, _, _ = prepared("residual")
    found = seen("residual")
    owned = [name for layer in found.layers for name in (layer.name, *layer.followers)]
    computed = [
        name
        for node, name in operator_names(model.graph_module).items()
        if node.op == "call_function"
    ]
    assert sorted(owned) == sorted(computed)
    assert found.between["stem.0:conv2d", "body.0.0:conv2d"] > 0
    assert ("stem.0:conv2d", "body.2.0:conv2d") in found.between, "the way around the block"
    assert ("stem.0:conv2d", "head.2:linear") not in found.between


# --- what a layer loses


def test_the_loss_of_int8_is_that_of_quantizing_this_layer_alone() -> None:
    model, statistics, calls = prepared("plain_cnn")
    found = seen("plain_cnn", "openvino")
    names = [layer.name for layer in found.layers]
    for name in names:
        others = tuple(other for other in names if other != name)
        step = QuantizeStatic("openvino", exclude=others)
        alone = step.rewrite(model, step.choose_from(model, statistics))
        assert isinstance(alone, Traced)
        wanted = error_of(model, alone, calls)
        assert found.losses[name]["int8"] == pytest.approx(wanted, rel=0.3)


def test_the_loss_of_a_layer_with_several_values_is_taken_of_the_whole() -> None:
    """An LSTM has no row in the sensitivity."""
    model, _, calls = prepared("lstm")
    alone = composed("lstm", {"lstm:lstm": "int8"})
    other = MixedPrecision(0.0, precisions=ALL).rewrite(model, alone)
    assert isinstance(other, Traced)
    wanted = error_of(model, other, calls)
    # Ranges are taken at run time: they hang on which samples come in one call.
    assert seen("lstm").losses["lstm:lstm"]["int8"] == pytest.approx(wanted, rel=0.2)


def test_the_loss_of_int4_is_that_of_these_weights_in_blocks() -> None:
    model, _, calls = prepared("encoder")
    found = seen("encoder")
    for name in ("words:embedding", "feeds.0.2:linear", "classifier:linear"):
        step = QuantizeWeights(include=(name,))
        alone = step.rewrite(model, step.choose_from(model))
        assert isinstance(alone, Traced)
        wanted = error_of(model, alone, calls)
        assert found.losses[name]["int4"] == pytest.approx(wanted, rel=1e-3)


class _Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.second(torch.tanh(self.first(x)))
        return result


def test_the_loss_of_bfloat16_is_that_of_rounding_around_the_layer() -> None:
    torch.manual_seed(0)
    net, x = _Two().eval(), torch.randn(32, 8)
    with torch.no_grad():
        model = calibrated(net, x)
        found = survey(*model, "openvino", ("bfloat16", "int8"))

        def rounded(t: torch.Tensor) -> torch.Tensor:
            return t.bfloat16().double()

        w, b = rounded(net.first.weight), rounded(net.first.bias)
        hidden = rounded((rounded(x) @ w.t() + b).float())
        changed = torch.tanh(hidden) @ net.second.weight.double().t() + net.second.bias.double()
        true = net.double()(x.double())
        wanted = float((changed - true).square().sum() / true.square().sum())
    assert found.losses["first:linear"]["bfloat16"] == pytest.approx(wanted, rel=0.05)
    assert found.base == "bfloat16"


def calibrated(net: nn.Module, x: torch.Tensor) -> tuple[Traced, Statistics]:
    from tests.quantize.quick import folded

    model = folded(net, x)
    return model, calibrate(model, [(x,)])


# --- what is chosen, and why


def test_without_a_cost_function_it_is_bytes_of_weights() -> None:
    found = seen("plain_cnn")
    convolution = found.num_bytes["3.0:conv2d"]
    tiny = next(tiny for tiny in catalogue() if tiny.name == "plain_cnn")
    shape = tuple(tiny.build().get_parameter("3.0.weight").shape)
    num, rows = math.prod(shape), shape[0]
    assert convolution["float32"] == 4 * num + 4 * rows
    assert convolution["int8"] == num + 5 * rows + 4 * rows
    blocks = rows * math.ceil(num / rows / 32)
    assert convolution["int4"] == num / 2 + 4.5 * blocks + 4 * rows


def test_rows_say_what_a_layer_has_and_why() -> None:
    model, statistics, _ = prepared("residual")
    found = seen("residual")
    most = 0.4 * sum(mine["float32"] for mine in found.num_bytes.values())
    choices = MixedPrecision(most, precisions=ALL).choose_from(model, statistics, seen=found)
    rows = {row["layer"]: row for row in choices.plan["allocation"]}
    assert list(rows) == [layer.name for layer in found.layers]
    assert sum(row["cost"] for row in rows.values()) <= most
    assert choices.plan["loss"] == pytest.approx(sum(row["loss"] for row in rows.values()))
    for row in rows.values():
        if row["precision"] == "float32":
            assert "would save" in row["why"]
        else:
            assert row["why"].startswith("saves")
    assert {row["precision"] for row in rows.values()} >= {"float32", "int8"}


def test_a_handed_in_cost_decides() -> None:
    model, statistics, _ = prepared("residual")
    found = seen("residual")

    def macs(layer: str, precision: str) -> float:
        free = layer == "last.2.0:conv2d" and precision == "int8"
        return 0.0 if free else 1.0

    step = MixedPrecision(len(found.layers) - 0.5, precisions=ALL, cost=macs, unit="MACs")
    choices = step.choose_from(model, statistics, seen=found)
    int8 = [name for name, p in choices.plan["precisions"].items() if p != "float32"]
    assert int8 == ["last.2.0:conv2d"]
    assert "MACs" in choices.plan["allocation"][4]["why"]


@pytest.mark.parametrize("wrong", [math.nan, -1.0, math.inf])
def test_a_cost_function_that_gives_nonsense_names_the_layer(wrong: float) -> None:
    model, statistics, _ = prepared("residual")

    def cost(layer: str, precision: str) -> float:
        return wrong if (layer, precision) == ("body.2.0:conv2d", "int8") else 1.0

    step = MixedPrecision(10.0, precisions=ALL, cost=cost)
    with pytest.raises(InvalidInput, match=r"cost of body\.2\.0:conv2d in int8"):
        step.choose_from(model, statistics, seen=seen("residual"))


def test_a_budget_that_none_meets_tells_the_nearest() -> None:
    model, statistics, _ = prepared("residual")
    with pytest.raises(Infeasible, match="the least that 6 layers can have") as refusal:
        MixedPrecision(10.0).choose_from(model, statistics, seen=seen("residual"))
    nearest = refusal.value.result
    assert isinstance(nearest, Allocation)
    least = sum(min(mine.values()) for mine in seen("residual").num_bytes.values())
    assert nearest.cost == pytest.approx(least)


def test_a_limit_that_asks_for_nothing_has_no_effect() -> None:
    model, statistics, _ = prepared("residual")
    with pytest.raises(NoEffect, match="every layer stays in float32"):
        MixedPrecision(1e9).choose_from(model, statistics, seen=seen("residual"))


def test_excluded_layers_stay_in_float() -> None:
    model, statistics, _ = prepared("residual")
    found = survey(model, statistics, "onnxruntime", ("float32", "int8"), exclude=("body",))
    refused = {layer.name: dict(layer.refused) for layer in found.layers}
    assert refused["body.0.0:conv2d"] == {"int8": "excluded"}
    assert refused["stem.0:conv2d"] == {}
    with pytest.raises(InvalidInput, match="matches nothing"):
        survey(model, statistics, exclude=("tail",))
    with pytest.raises(NoEffect, match="excluded"):
        survey(model, statistics, exclude=("*",))


# --- formats


def test_a_format_that_a_runtime_cannot_hold_is_refused_by_name() -> None:
    with pytest.raises(Unsupported, match="onnxruntime has no bfloat16 kernels"):
        MixedPrecision(1.0, "onnxruntime", ("bfloat16", "int8"))
    with pytest.raises(InvalidInput, match="one of float32 and bfloat16"):
        MixedPrecision(1.0, "openvino", ("float32", "bfloat16", "int8"))
    for wrong in (("float32",), ("int8", "int4"), ("float32", "int2"), "int8"):
        with pytest.raises(InvalidInput, match="precisions="):
            MixedPrecision(1.0, "openvino", wrong)  # type: ignore[arg-type]
    for limit in (math.nan, -1.0, math.inf, "3"):
        with pytest.raises(InvalidInput, match="limit"):
            MixedPrecision(limit)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="cost="):
        MixedPrecision(1.0, cost=3.0)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="no int8 placement"):
        MixedPrecision(1.0, "eager")


def test_a_graph_that_is_quantized_is_refused() -> None:
    model, statistics, _ = prepared("residual")
    step = QuantizeStatic()
    quantized = step.rewrite(model, step.choose_from(model, statistics))
    assert isinstance(quantized, Traced)
    with pytest.raises(InvalidInput, match="quantized already"):
        survey(quantized, statistics)


@pytest.mark.parametrize(
    "runtime", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)]
)
def test_a_runtime_computes_what_was_simulated(tmp_path: Path, runtime: str) -> None:
    model, statistics, calls = prepared("residual")
    found = seen("residual", runtime)
    names = [layer.name for layer in found.layers]
    given = dict(zip(names, ("float32", "int8", "int8", "int4", "float32", "int4"), strict=True))
    step = MixedPrecision(0.0, runtime, ALL)
    options = found.options(lambda layer, precision: 0.0)
    choices = step.compose(model, statistics, found, options, Allocation(given, 0.0, 0.0))
    mixed = step.rewrite(model, choices)
    assert isinstance(mixed, Traced)
    artifact = export(mixed, runtime, tmp_path, precision="int8")
    with load(artifact) as worker:
        answers = worker.run({model.inputs[0].name: calls[0][0].numpy()})
    wanted = outputs(mixed, calls[:1])[0].numpy()
    plain = outputs(model, calls[:1])[0].numpy()
    off = float(np.square(answers[0] - wanted).sum() / np.square(plain - wanted).sum())
    assert off < 0.05, "nearer to its simulation than that is to the float model"


def test_the_function_is_the_step() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(1)).eval()
    x = torch.randn(8, 3, 8, 8)
    most = 0.5 * sum(4 * p.numel() for p in net.parameters())
    quantized = mixed_precision(net, [x], most)
    model, statistics = calibrated(net, x)
    step = MixedPrecision(most)
    same = step.rewrite(model, step.choose_from(model, statistics))
    assert torch.equal(quantized(x), same(x))
    assert not torch.equal(quantized(x), net(x))


def test_the_code_of_the_card_runs(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root / "docs/methods/mixed_precision.md") == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["0:conv2d", "2:conv2d", "5:linear"]
    assert any("MACs for" in line for line in lines)


def test_options_and_seams_come_from_the_survey() -> None:
    """Forms: an open seam is where int8 meets float, whatever kind of float."""
    options = seen("residual").options(lambda layer, precision: 1.0)
    forms = {p: option.form for p, option in options["stem.0:conv2d"].items()}
    assert forms == {"float32": "float", "int8": "int8", "int4": "float"}
    assert allocate(options, math.inf).loss == 0.0

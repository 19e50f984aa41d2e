"""`quantize_dynamic` as people know it from torch, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import nn

from burnish.core import Candidate, Choices
from burnish.errors import InvalidInput, NoEffect, Unsupported
from burnish.goal import Inputs
from burnish.graph import DYNAMIC_CONV, DYNAMIC_LINEAR, LOOKUP, STORED_GRU, Traced, trace
from burnish.quantize import DynamicModel, QuantizeDynamic, coverage, fold, quantize_dynamic
from burnish.testing import RewriteContract, Tiny, catalogue
from tests import once
from tests.quantize.dynamic import ALL, Recurrent

TINIES = {tiny.name: tiny for tiny in catalogue()}
FEW = ("tied_weights", "gru")


class Contract(RewriteContract):
    def step(self) -> QuantizeDynamic:
        return QuantizeDynamic(kinds=ALL)

    def names_in(self, choices: Choices) -> Iterable[str]:
        return [*choices.plan["operators"], *(row["operator"] for row in choices.plan["coverage"])]


class TestFromUntraced(Contract):
    def tinies(self) -> Iterable[Tiny]:
        return [TINIES[name] for name in FEW[:1]]


class TestFromTraced(Contract):
    def candidate(self, tiny: Tiny) -> Candidate:
        return Candidate(once.traced(tiny).copy())

    def tinies(self) -> Iterable[Tiny]:
        return [TINIES[name] for name in FEW[1:]]


@pytest.mark.slow
class TestEverywhere(Contract):
    """On the whole catalogue."""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(6, 8, 3, padding="same")
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.unused = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(self.conv(x.transpose(1, 2)).transpose(1, 2))
        y: torch.Tensor = self.norm(self.gru(x)[0])
        return y


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


X = torch.randn(4, 7, 6, generator=torch.Generator().manual_seed(0))


def targets(model: Traced | DynamicModel) -> list[object]:
    graph = model.traced if isinstance(model, DynamicModel) else model
    ours = {DYNAMIC_LINEAR, DYNAMIC_CONV, STORED_GRU, LOOKUP}
    return [node.target for node in graph.graph_module.graph.nodes if node.target in ours]


def test_the_call_people_know(net: Net) -> None:
    """No example, no calibration: called like the model, quantized at the first call."""
    quantized = quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)
    wanted = net(X[:1]).detach()
    given = quantized(X[:1])
    assert not given.requires_grad
    assert 0 < float((given - wanted).abs().max()) < 0.1
    assert quantized(X).shape == (4, 7, 8), "other batch sizes than the first call's"
    assert targets(quantized) == [DYNAMIC_LINEAR] * 2
    stored = [t for t in quantized.state_dict().values() if t.dtype == torch.int8]
    assert sorted(t.numel() for t in stored) == [128, 128]


def test_the_model_may_go_on_changing(net: Net) -> None:
    """What is quantized is the model as it was."""
    wanted = quantize_dynamic(net, example=X)(X)
    quantized = quantize_dynamic(net)
    with torch.no_grad():
        net.body.get_parameter("0.weight").mul_(3.0)
    assert torch.equal(quantized(X), wanted)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (None, [DYNAMIC_LINEAR, DYNAMIC_LINEAR, STORED_GRU]),
        ({"body.2", nn.GRU}, [DYNAMIC_LINEAR, STORED_GRU]),
        ({nn.Conv1d}, [DYNAMIC_CONV]),
        pytest.param([Net], [DYNAMIC_LINEAR, DYNAMIC_LINEAR, STORED_GRU], marks=pytest.mark.slow),
    ],
)
def test_classes_and_names_select(net: Net, layers, expected: list[object]) -> None:
    assert targets(quantize_dynamic(net, layers, example=X)) == expected


def test_traced_models_are_selected_by_name(net: Net) -> None:
    traced = trace(net, (X,))
    assert targets(quantize_dynamic(traced, {"gru"})) == [STORED_GRU]
    with pytest.raises(InvalidInput, match="Linear names nothing in a traced model"):
        quantize_dynamic(traced, {nn.Linear})


@pytest.mark.parametrize(
    ("layers", "error"),
    [
        ({nn.LSTM}, "'LSTM' matches no module"),
        ({"bodi"}, "no module named 'bodi'"),
        ({nn.LayerNorm}, "'LayerNorm' holds nothing that has a dynamic form"),
        ({"unused"}, "no module that 'unused' names is ever called"),
        ({3}, "3 is no module class"),
        (set(), "set of layers is empty"),
        ({nn.Linear: "qconfig"}, "no dict of qconfigs"),
    ],
)
def test_layers_that_match_nothing_are_errors(net: Net, layers, error: str) -> None:
    with pytest.raises(InvalidInput, match=error):
        quantize_dynamic(net, layers, example=X)


def test_names_that_match_nothing_fail_before_the_first_call(net: Net) -> None:
    with pytest.raises(InvalidInput, match="no module named"):
        quantize_dynamic(net, {"bodi"})
    with pytest.raises(InvalidInput, match="matches nothing"):
        quantize_dynamic(net, example=X, exclude=("bodi",))
    with pytest.raises(InvalidInput, match="quantized at its first call"):
        _ = quantize_dynamic(net).traced


def test_other_dtypes_are_refused(net: Net) -> None:
    with pytest.raises(Unsupported, match="a cast"):
        quantize_dynamic(net, dtype=torch.float16)
    with pytest.raises(Unsupported, match="int8 and symmetric"):
        quantize_dynamic(net, dtype=torch.quint8)


def test_what_is_quantized_already_is_refused(net: Net) -> None:
    quantized = quantize_dynamic(net, example=X)
    with pytest.raises(InvalidInput, match="quantized already"):
        quantize_dynamic(quantized)
    with pytest.raises(InvalidInput, match="quantized already"):
        quantize_dynamic(quantize_dynamic(net), example=X)


def test_openvino_is_refused_by_layer(net: Net) -> None:
    """It would compute in float: said with the layer, and what to use instead."""
    with pytest.raises(Unsupported, match=r"openvino .*'body.0:linear'.*QuantizeStatic"):
        quantize_dynamic(net, example=X, runtime="openvino")
    kept = quantize_dynamic(net, {nn.GRU}, example=X, runtime="openvino")
    assert targets(kept) == [STORED_GRU]
    with pytest.raises(InvalidInput, match="'onnxruntime', 'openvino'"):
        QuantizeDynamic("tensorrt")
    with pytest.raises(InvalidInput, match="'embedding'"):
        QuantizeDynamic(kinds=("attention",))


def test_everything_left_alone_has_a_reason(net: Net) -> None:
    step = QuantizeDynamic(exclude=("body.0",))
    rows = {r.operator: r for r in coverage(step.choose_from(fold(trace(net, (X,)))))}
    assert rows["body.0:linear"].reason == "excluded"
    assert "slower than its float one" in rows["conv:conv1d"].reason
    assert "no weights" in rows["norm:layer_norm"].reason
    assert all(row.reason for row in rows.values() if row.state == "float")
    with pytest.raises(NoEffect, match="no weights"):
        quantize_dynamic(nn.LayerNorm(4), example=torch.randn(3, 4))
    broken = nn.Linear(4, 3)
    nn.init.constant_(broken.weight, float("inf"))
    with pytest.raises(NoEffect, match="infinities"):
        quantize_dynamic(broken, example=torch.randn(3, 4))


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_projected_states_stay_in_float() -> None:
    lstm = Recurrent("LSTM", 2, proj_size=4, batch_first=True).eval()
    with pytest.raises(NoEffect, match="proj_size"):
        quantize_dynamic(lstm, example=torch.randn(5, 3, 12))


def test_time_first_models_are_called_with_inputs() -> None:
    tiny = TINIES["gru"]
    quantized = quantize_dynamic(tiny.build(), example=tiny.inputs(3))
    assert isinstance(quantized, Traced)
    assert tiny.call(quantized, tiny.inputs(5)).shape == (7, 5, 5)


def test_half_range_weights_fit_two_products_in_16_bits() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(32, 8).eval(), torch.randn(4, 32)
    for half, largest in ((False, 127), (True, 63)):
        graph = quantize_dynamic(layer, example=x, half_range=half)
        (weight,) = (t for t in graph.state_dict().values() if t.dtype == torch.int8)
        assert int(weight.abs().max()) == largest


def test_keywords_and_dicts() -> None:
    tiny = TINIES["encoder"]
    inputs: Inputs = tiny.inputs(3)
    lazy = quantize_dynamic(tiny.build(), {nn.Linear})
    one = lazy(**inputs.kwargs)
    two = quantize_dynamic(tiny.build(), {nn.Linear}, example=dict(inputs.kwargs))
    assert torch.equal(one.logits, two(**inputs.kwargs).logits)

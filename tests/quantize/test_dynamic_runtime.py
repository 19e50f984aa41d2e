"""What was simulated is what onnxruntime computes, with integer kernels, from a smaller file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from burnish.goal import Inputs
from burnish.graph import trace
from burnish.quantize import QuantizeDynamic, fold, quantize_dynamic
from burnish.testing import Tiny, catalogue
from tests import once
from tests.quantize.dynamic import ALL, Recurrent, float_size, ran

INTEGER = {
    **{kind: {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"} for kind in ("linear", "matmul")},
    **{kind: {"ConvInteger"} for kind in ("conv1d", "conv2d", "conv3d")},
    "lstm": {"DynamicQuantizeLSTM"},
}
FEW = {"grouped", "encoder", "tied_weights"}
MODELS = [
    pytest.param(tiny, id=tiny.name, marks=() if tiny.name in FEW else pytest.mark.slow)
    for tiny in catalogue()
]


@pytest.mark.parametrize("tiny", MODELS)
def test_runs_as_simulated_and_on_integers(tiny: Tiny) -> None:
    found = ran(once.traced(tiny), tiny.inputs(4, seed=1), QuantizeDynamic(kinds=ALL))
    # A rounding that falls the other way in one layer moves the next by a step: few, and small.
    for given, simulated, floats in zip(found.given, found.simulated, found.floats, strict=True):
        step = np.ptp(floats) / 255
        assert np.abs(given - simulated).max() <= step
        assert np.mean(np.abs(given - simulated) > 0.01 * step) <= 0.02
        assert 0 < np.sqrt(np.mean((given - floats) ** 2)) <= 0.03 * floats.std()
    for name, row in found.rows.items():
        if row.state == "int8":
            assert found.kinds(name) & INTEGER[row.kind], f"{name} runs as {found.kinds(name)}"


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize(
    ("settings", "given"),
    [
        ({"num_layers": 2, "batch_first": True, "bidirectional": True}, True),
        pytest.param({"bias": False}, False, marks=pytest.mark.slow),
        pytest.param({"bidirectional": True}, True, marks=pytest.mark.slow),
        pytest.param({"num_layers": 3, "dropout": 0.3}, False, marks=pytest.mark.slow),
    ],
)
def test_recurrent_layers_of_every_form(kind: str, settings: dict[str, Any], given: bool) -> None:
    torch.manual_seed(0)
    model = Recurrent(kind, 2 if kind == "LSTM" else 1, **settings).eval()
    first = settings.get("batch_first", False)
    x = torch.randn((3, 7, 12) if first else (7, 3, 12))
    axes: dict[str, dict[int, str]] = {"0": {0: "batch"} if first else {1: "batch"}}
    args: tuple[torch.Tensor, ...] = (x,)
    if given:
        layers = settings.get("num_layers", 1) * (2 if settings.get("bidirectional") else 1)
        args = (x, torch.randn(layers, 3, 16))
        axes["1"] = {1: "batch"}
    inputs = Inputs(args, batch_axis={key: next(iter(named)) for key, named in axes.items()})
    found = ran(trace(model, args, axes=axes), inputs, QuantizeDynamic())
    assert len(found.given) == (3 if kind == "LSTM" else 2)
    assert found.close(1e-3 if kind == "LSTM" else 1e-5)
    for ours, floats in zip(found.given, found.floats, strict=True):
        assert 0 < np.abs(ours - floats).max() <= 0.03
    row = found.rows[f"layer:{kind.lower()}"]
    assert (row.state, kind) in (("int8", "LSTM"), ("float", "GRU"))
    expected = "DynamicQuantizeLSTM" if kind == "LSTM" else "GRU"
    assert expected in found.kinds(row.operator)
    assert kind != "GRU" or "stored in int8" in row.reason


class Tied(nn.Module):
    """An embedding whose table is the head's weight, and one hidden layer called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(300, 64)
        self.hidden = nn.Linear(64, 64)
        self.head = nn.Linear(64, 300, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.hidden(torch.tanh(self.hidden(self.embed(ids)))))
        return logits


def test_shared_weights_are_stored_once() -> None:
    """Tied weights, and a layer used twice: one int8 tensor each, in the graph and in the file."""
    torch.manual_seed(0)
    ids = torch.randint(0, 300, (4, 5))
    traced = trace(Tied().eval(), (ids,))
    step = QuantizeDynamic()
    graph = step.rewrite(traced, step.choose_from(fold(traced)))
    stored = [t for t in graph.state_dict().values() if t.dtype == torch.int8]
    assert sorted(t.numel() for t in stored) == [64 * 64, 300 * 64]
    found = ran(traced, Inputs((ids,)), step)
    assert found.close()
    assert 300 * 64 + 64 * 64 < found.size < 300 * 64 + 64 * 64 + 15000
    assert found.kinds("embed:embedding") >= {"Gather", "Cast", "Mul"}
    assert "DequantizeLinear" not in {op.kind for op in found.operators}


@pytest.mark.parametrize(
    "kind", ["linear", "gru", *(pytest.param(k, marks=pytest.mark.slow) for k in ("lstm", "conv"))]
)
def test_files_are_a_quarter(kind: str) -> None:
    torch.manual_seed(0)
    makes: dict[str, Any] = {
        "linear": (lambda: nn.Linear(256, 256), (4, 256)),
        "lstm": (lambda: nn.LSTM(96, 96, batch_first=True), (5, 4, 96)),
        "gru": (lambda: nn.GRU(96, 96, batch_first=True), (5, 4, 96)),
        "conv": (lambda: nn.Conv2d(64, 64, 3), (2, 64, 5, 5)),
    }
    make, shape = makes[kind]
    x = torch.randn(shape)
    traced = trace(make().eval(), (x,))
    found = ran(traced, Inputs((x,)), QuantizeDynamic(kinds=(kind,)))
    assert found.size < 0.3 * float_size(traced)


def test_what_openvino_stores_in_int8_it_computes() -> None:
    """A GRU behind an embedding, which both are float arithmetic on stored integers."""
    torch.manual_seed(0)

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(200, 32)
            self.gru = nn.GRU(32, 32, batch_first=True)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.gru(self.embed(ids))[0]  # type: ignore[no-any-return]

    ids = torch.randint(0, 200, (3, 6))
    step = QuantizeDynamic("openvino")
    traced = trace(Tagger().eval(), (ids,))
    found = ran(traced, Inputs((ids,)), step, "openvino")
    assert found.close(1e-4)
    assert found.size < 0.6 * float_size(traced, "openvino")


def test_constants_and_empty_ranges() -> None:
    """All zeros, and all of one sign: the range always holds zero."""
    torch.manual_seed(0)
    layer = nn.Linear(8, 4).eval()
    x = torch.cat([torch.zeros(3, 8), torch.full((3, 8), 5.0), -torch.rand(3, 8)])
    graph = quantize_dynamic(layer, example=x)
    for part in x.split(3):
        assert float((graph(part) - layer(part).detach()).abs().max()) < 0.05
    assert graph(x[:0]).shape == (0, 4)
    assert ran(trace(layer, (x,)), Inputs((x[:3],)), QuantizeDynamic()).close()

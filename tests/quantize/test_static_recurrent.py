"""LSTMs in static quantization: int8 in OpenVINO's own counters, at run time in onnxruntime."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from burnish.errors import NoEffect
from burnish.graph import Traced, trace
from burnish.quantize import QuantizeStatic, calibrate, coverage, fold
from burnish.quantize._graphs.recurrent import Layer
from burnish.quantize._static.recurrent import _factor
from burnish.runtimes import export, load
from tests.quantize.dynamic import Recurrent

KERNELS = {"openvino": "LSTMSequence:ref_any_I8", "onnxruntime": "DynamicQuantizeLSTM"}


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
@pytest.mark.parametrize(
    ("settings", "given", "spread"),
    [
        ({"num_layers": 2, "batch_first": True, "bidirectional": True}, True, 5.0),
        ({}, False, 0.2),
        pytest.param({"bias": False, "num_layers": 2}, True, 1.0, marks=pytest.mark.slow),
    ],
)
def test_lstms_run_in_int8(
    runtime: str, settings: dict[str, Any], given: bool, spread: float
) -> None:
    """Every form, with and without first states, for inputs wider and narrower than a state."""
    torch.manual_seed(0)
    model = Recurrent("LSTM", 2, **settings).eval()
    first = settings.get("batch_first", False)
    args: tuple[torch.Tensor, ...] = (spread * torch.randn((6, 9, 12) if first else (9, 6, 12)),)
    axes: dict[str, dict[int, str]] = {"0": {0 if first else 1: "batch"}}
    if given:
        layers = settings.get("num_layers", 1) * (2 if settings.get("bidirectional") else 1)
        args = (*args, torch.rand(layers, 6, 16))
        axes["1"] = {1: "batch"}
    traced = trace(model, args, axes=axes)
    folded = fold(traced)
    step = QuantizeStatic(runtime)
    choices = step.choose_from(folded, calibrate(folded, [args]))
    (row,) = (row for row in coverage(choices) if row.kind == "lstm")
    assert row.state == "int8"
    assert ("run time" in row.reason) == (runtime == "onnxruntime")
    graph = step.rewrite(traced, choices)
    assert isinstance(graph, Traced)
    arrays = {slot.name: t.numpy() for slot, t in zip(traced.inputs, args, strict=True)}
    with tempfile.TemporaryDirectory() as folder:
        artifact = export(graph, runtime, Path(folder), precision="int8")
        with load(artifact.with_options(threads=1)) as worker:
            outputs = [np.array(array) for array in worker.run(arrays)]
            kinds = [op.kind for op in worker.op_times(arrays, repeats=1) if "LSTM" in op.kind]
    assert set(kinds) == {KERNELS[runtime]}
    with torch.no_grad():
        simulated, floats = graph(*args), model(*args)
    for got, wanted, real in zip(outputs, simulated, floats, strict=True):
        # A state that falls to the other side of a rounding is one step of its grid.
        assert np.abs(got - wanted.numpy()).max() <= 2.5 / 127
        assert np.mean(np.abs(got - wanted.numpy()) > 1e-4) <= 0.1
        error = np.sqrt(np.mean((got - real.numpy()) ** 2))
        assert 0 < error <= 0.06 * float(real.std())


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_what_stays_in_float_says_why(runtime: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 9, 12)
    for kind in ("GRU", "RNN"):
        traced = fold(trace(Recurrent(kind, 1, batch_first=True).eval(), (x,)))
        with pytest.raises(NoEffect, match=r"recurrent: .* int8 kernel"):
            QuantizeStatic(runtime).choose_from(traced, calibrate(traced, [(x,)]))
    traced = fold(trace(Recurrent("LSTM", 2, batch_first=True).eval(), (x,)))
    step, statistics = QuantizeStatic(runtime, exclude=("layer",)), calibrate(traced, [(x,)])
    with pytest.raises(NoEffect, match="excluded"):
        step.choose_from(traced, statistics)


def test_wide_inputs_are_brought_to_the_state() -> None:
    """The factor lies between nothing done and the input brought to the state's range."""
    generator = torch.Generator().manual_seed(0)
    w, r = (torch.randn(1, 64, 16, generator=generator) for _ in range(2))
    layer = Layer(w, r, torch.zeros(1, 128))
    assert _factor(layer, 1.0) == pytest.approx(1.0, rel=0.15)
    assert 1.5 < _factor(layer, 10.0) <= 10.0
    assert _factor(layer, 0.01) == pytest.approx(0.01, rel=0.15) or _factor(layer, 0.01) < 1.0


def test_rows_of_the_table_are_the_plan() -> None:
    """The onnxruntime plan holds no ranges for an LSTM, OpenVINO's one for each layer."""
    torch.manual_seed(0)
    x = torch.randn(4, 5, 12)
    traced = fold(trace(Recurrent("LSTM", 2, num_layers=2, batch_first=True).eval(), (x,)))
    statistics = calibrate(traced, [(x,)])
    plan = QuantizeStatic("openvino").choose_from(traced, statistics).plan["recurrent"]
    entry = plan["layer:lstm"]
    assert len(entry["factors"]) == len(entry["scales"]) == 2
    assert entry["scales"][1] == pytest.approx(1 / 127)
    again = QuantizeStatic("onnxruntime").choose_from(traced, statistics).plan["recurrent"]
    assert again == {"layer:lstm": {"ranges": "run time"}}


def test_head_behind_an_lstm_is_int8_too() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(12, 16, batch_first=True)
            self.head = nn.Linear(16, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(self.lstm(x)[0])
            return logits

    torch.manual_seed(0)
    x = torch.randn(8, 6, 12)
    model = Tagger().eval()
    traced = fold(trace(model, (x,)))
    step = QuantizeStatic("openvino")
    choices = step.choose_from(traced, calibrate(traced, [(x,)]))
    assert {row.kind for row in coverage(choices) if row.state == "int8"} == {"lstm", "linear"}
    with torch.no_grad():
        given, wanted = step.rewrite(traced, choices)(x), model(x)
    assert 0 < float((given - wanted).std()) < 0.05 * float(wanted.std())

"""A preflight on real runtimes: tiny models, few seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from burnish.errors import InvalidInput
from burnish.goal import Inputs
from burnish.graph import trace
from burnish.profile import preflight
from burnish.profile._in_int8 import in_int8
from burnish.profile._latency_graph import inputs_of
from burnish.profile._preflight import ESTIMATED, IMPOSSIBLE, MEASURED
from burnish.runtimes import export, load


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(x).relu()).relu()
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_one_call_is_enough_to_really_run_in_int8(runtime: str, tmp_path: Path) -> None:
    refused: dict[str, str] = {}
    call = (torch.randn(2, 3, 16, 16),)
    ((name, graph),) = in_int8(trace(Net(), call), call, (runtime,), refused)
    assert (name, refused) == (runtime, {})
    with load(export(graph, runtime, tmp_path, precision="int8")) as worker:
        kinds = [item.kind for item in worker.op_times(inputs_of(graph, 2), repeats=1)]
    inside = [kind for kind in kinds if "QLinearConv" in kind or "I8" in kind or "i8" in kind]
    assert len(inside) >= 2, kinds


def test_it_answers_every_question() -> None:
    told: list[str] = []
    found = preflight(
        Net(), torch.zeros(1, 3, 16, 16), compiling=False, seconds=0.3, progress=told.append
    )
    assert found.reference == "eager float32"
    assert found.batch == 1
    by_move = {one.move: one for one in found.answers}
    assert by_move["float32 in onnxruntime"].how == MEASURED
    assert by_move["channels-last in eager"].how == MEASURED
    assert by_move["bfloat16 in openvino"].how in (MEASURED, IMPOSSIBLE)
    for runtime in ("onnxruntime", "openvino"):
        answer = by_move[f"int8 in {runtime}"]
        assert answer.how == MEASURED
        assert answer.factor is not None
        assert "quality is not known" in answer.basis
    (half,) = (one for one in found.answers if one.move.startswith("half the channels"))
    assert half.how == ESTIMATED
    assert half.factor is not None
    assert half.factor.low <= half.factor.value <= half.factor.high
    assert sum(move.startswith("batch 8") for move in by_move) == 1
    assert "tracing the model" in told


def test_a_model_without_layers() -> None:
    found = preflight(
        nn.ReLU(),
        torch.zeros(2, 8),
        runtimes=("onnxruntime",),
        compiling=True,
        seconds=0.2,
    )
    by_move = {one.move: one for one in found.answers}
    assert found.reference == "onnxruntime float32"
    assert by_move["int8 in onnxruntime"].how == IMPOSSIBLE
    assert by_move["compiled by inductor"].how == IMPOSSIBLE


def test_without_a_batch_axis_there_is_no_larger_batch() -> None:
    inputs = Inputs(torch.zeros(2, 8), batch_axis=None)
    found = preflight(nn.ReLU(), inputs, runtimes=("onnxruntime",), compiling=False, seconds=0.2)
    assert not [one.move for one in found.answers if one.move.startswith("batch")]


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InvalidInput, match="batch=0"):
        preflight(Net(), torch.zeros(1, 3, 16, 16), batch=0)
    with pytest.raises(InvalidInput, match="no runtime 'tvm'"):
        preflight(Net(), torch.zeros(1, 3, 16, 16), runtimes=("tvm",))
    for runtimes in ((), ("inductor",)):
        with pytest.raises(InvalidInput, match="compiling"):
            preflight(Net(), torch.zeros(1, 3, 16, 16), runtimes=runtimes)

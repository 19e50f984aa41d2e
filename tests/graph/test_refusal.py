"""What cannot be traced is refused with the line, the reason and what to do, and nothing else."""

from __future__ import annotations

import inspect
import logging
import threading
from typing import Any

import pytest
import torch
from torch import nn

from burnish.errors import InvalidInput, Unsupported
from burnish.graph import trace
from tests.graph import models

X = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))


def _line(model: type[nn.Module], text: str) -> int:
    lines, first = inspect.getsourcelines(model)
    return first + next(i for i, line in enumerate(lines) if text in line)


def test_control_flow_on_data_names_the_line_and_a_way_out() -> None:
    with pytest.raises(Unsupported) as caught:
        trace(models.Branching(), (X,))
    message = str(caught.value)
    assert f"models.py:{_line(models.Branching, 'the culprit')}: if x.sum() > 0:" in message
    assert "depends on the values in a tensor" in message
    assert "torch.where" in message
    assert "GuardOnDataDependentSymNode" in message


def test_the_line_is_of_the_submodule_not_of_its_caller() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(models.Branching()))
    with pytest.raises(Unsupported, match=f":{_line(models.Branching, 'the culprit')}: "):
        trace(model, (X,))


def test_a_refusal_prints_and_logs_nothing(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(Unsupported):
        trace(models.Branching(), (X,))
    assert capfd.readouterr() == ("", "")
    assert [record.name for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_the_users_logging_and_stderr_stay_as_they_were(
    capfd: pytest.CaptureFixture[str],
) -> None:
    import sys

    names = ("torch", "torch.export", "torch.fx.experimental.symbolic_shapes")
    loggers = [logging.getLogger(), *map(logging.getLogger, names)]

    def state() -> list[Any]:
        return [(log.level, log.disabled, log.filters[:], log.handlers[:]) for log in loggers]

    before, stderr = state(), sys.stderr

    class Talking(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            print("def forwarding is not a graph", file=sys.stderr)
            print("class act", file=sys.stderr)
            logging.getLogger("mine").warning("said by the model")
            return x + 1

    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("mine").addHandler(handler)
    try:
        trace(Talking(), (X,))
    finally:
        logging.getLogger("mine").removeHandler(handler)
    assert state() == before
    assert sys.stderr is stderr
    assert capfd.readouterr().err.splitlines() == ["def forwarding is not a graph", "class act"]
    assert said == ["said by the model"]
    with pytest.raises(Unsupported):
        trace(models.Branching(), (X,))
    assert state() == before
    assert sys.stderr is stderr


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (models.FixedBatch(), "the one size 2 of the dynamic axis 'batch'"),
        (models.EvenBatch(), "some sizes only of the dynamic axis 'batch'"),
    ],
)
def test_a_size_that_cannot_change_is_explained(model: nn.Module, said: str) -> None:
    with pytest.raises(Unsupported, match=said) as caught:
        trace(model, (X[:2],))
    assert "batch_axis=None" in str(caught.value)
    assert "x.shape[0]" in str(caught.value)


def test_the_axis_is_named_as_the_user_names_it() -> None:
    class FixedLength(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.arange(4.0)

    with pytest.raises(Unsupported, match="the one size 4 of the dynamic axis 'time steps'"):
        trace(FixedLength(), (X[:2],), axes={"0": {0: "batch", 1: "time steps"}})


def test_a_fixed_batch_can_be_traced_when_it_is_declared() -> None:
    traced = trace(models.FixedBatch(), (X[:2],), axes={"0": {}})
    assert traced.inputs[0].shape == (2, 4)
    assert torch.equal(traced(X[:2]), models.FixedBatch()(X[:2]))


def test_an_example_call_that_fails_names_the_line() -> None:
    line = _line(models.Failing, "do not fit")
    with pytest.raises(InvalidInput, match=f"fails on the example call: RuntimeError.*:{line}: "):
        trace(models.Failing(), (X[:3],))


def test_an_example_call_with_the_wrong_arguments() -> None:
    with pytest.raises(InvalidInput, match=r"fails on the example call: TypeError.*argument"):
        trace(models.Failing(), (X, X))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({1: X}, "output.'odd'. is a dict with the key 1: keys must be strings"),
        ({1, 2}, "returns a set at output.'odd'."),
        (torch.float32, "returns a dtype at output.'odd'."),
        ([object()], "returns a object at output.'odd'..0."),
    ],
)
def test_outputs_that_have_no_flat_form(value: Any, said: str) -> None:
    with pytest.raises(Unsupported, match=said):
        trace(models.OddOutput(value), (X,))


def test_a_size_among_the_outputs_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"number at output\[1\] that changes with a dynamic"):
        trace(models.BatchOut(), (X,))


def test_a_model_without_a_tensor_to_give() -> None:
    class Silent(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, int]:
            return {"n": 3}

    with pytest.raises(Unsupported, match="returns no tensor"):
        trace(Silent(), (X,))


@pytest.mark.parametrize(
    ("args", "axes", "said"),
    [
        ((), None, "holds no tensor"),
        ((X[:1],), None, r"'batch' \(axis 0 of input '0'\) has size 1.*2 or more"),
        ((X,), {"x": {0: "batch"}}, "names 'x', which is no tensor of the call; it has '0'"),
        ((X,), {"0": {2: "batch"}}, "axis 2 of input '0' does not exist"),
        ((X,), {"0": {-1: "length"}}, "axis -1 of input '0' does not exist"),
        ((X, {1, 2}), None, "argument '1' of the call is a set"),
        ((X, {1: X}), None, "the call.*key 1"),
    ],
)
def test_calls_that_make_no_sense(args: tuple[Any, ...], axes: Any, said: str) -> None:
    with pytest.raises((InvalidInput, Unsupported), match=said):
        trace(nn.Linear(4, 4), args, axes=axes)


def test_a_model_that_cannot_be_copied_is_refused_with_the_reason() -> None:
    model = nn.Linear(4, 4)
    model.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(Unsupported, match=r"cannot be copied.*lock.*no_grad"):
        trace(model, (X,))

"""What quantization-aware training refuses, by name, and with what to do instead."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from burnish.core import Candidate
from burnish.errors import InvalidInput, NoEffect, Unsupported
from burnish.goal import Goal, Inputs, Task
from burnish.graph import Traced, flatten_call, set_mode
from burnish.metrics import top1
from burnish.quantize import (
    ConvertQat,
    PrepareQat,
    QuantizeStatic,
    Weights,
    convert_qat,
    prepare_qat,
    quantize_static,
)
from burnish.runtimes import export
from burnish.testing import catalogue
from burnish.train import Train, fit
from tests import once

TINIES = {tiny.name: tiny for tiny in catalogue()}


def _network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()


def _rows(num: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(16, 4, generator=generator), torch.randint(0, 2, (16,), generator=generator))
        for _ in range(num)
    ]


def _task(calibrated: bool = True) -> Task:
    rows = _rows()
    return Task(
        inputs=Inputs(rows[0][0][:2]),
        metric=top1,
        train=rows,
        calibration=[x for x, _ in rows] if calibrated else None,
        loss=F.cross_entropy,
    )


def _prepared(**settings: object) -> Traced:
    return prepare_qat(_network(), [x for x, _ in _rows()], **settings)  # type: ignore[arg-type]


def test_a_frozen_model() -> None:
    frozen = _network().requires_grad_(False)
    with pytest.raises(InvalidInput, match=r"is frozen: .*0:linear.*requires_grad_\(True\)"):
        PrepareQat().apply(Candidate(frozen), Goal(_task()))
    with pytest.raises(InvalidInput, match="QuantizeStatic, which trains nothing"):
        prepare_qat(frozen, [x for x, _ in _rows()])


def test_no_calibration_data() -> None:
    with pytest.raises(InvalidInput, match=r"PrepareQat: .* give Task\(calibration="):
        PrepareQat().apply(Candidate(_network()), Goal(_task(calibrated=False)))
    with pytest.raises(InvalidInput, match="prepare_qat: the calibration data is empty"):
        prepare_qat(_network(), [])


def test_a_model_that_is_quantized_already() -> None:
    quantized = quantize_static(_network(), [x for x, _ in _rows()])
    with pytest.raises(InvalidInput, match="PrepareQat: the model is quantized already"):
        PrepareQat().apply(Candidate(quantized), Goal(_task()))
    with pytest.raises(InvalidInput, match="ConvertQat: the model is quantized already"):
        convert_qat(quantized)


@pytest.mark.parametrize("step", [PrepareQat(), QuantizeStatic()], ids=["PrepareQat", "static"])
def test_a_model_that_is_prepared_already(step: PrepareQat | QuantizeStatic) -> None:
    with pytest.raises(InvalidInput, match=r"prepared for quantization-aware .*ConvertQat"):
        step.apply(Candidate(_prepared()), Goal(_task()))


def test_converting_what_was_not_prepared() -> None:
    for model in (_network(), once.traced(TINIES["plain_cnn"])):
        with pytest.raises(InvalidInput, match=r"prepare it first, as in PrepareQat\(\) >> Train"):
            ConvertQat().apply(Candidate(model), Goal(_task()))
        with pytest.raises(InvalidInput, match="holds no fake quantizers"):
            convert_qat(model)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "eager"])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_exporting_what_was_not_converted(runtime: str, precision: str, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"apply quantize\.ConvertQat"):
        export(_prepared(), runtime, tmp_path, precision=precision)


def test_a_learned_range_that_collapses_is_named_when_it_does() -> None:
    """An absurd rate: the training ends at the step, with the layer's name and what to do."""
    with pytest.raises(InvalidInput, match=r"the range of '.*(linear|relu)' collapsed .*exclude"):
        fit(_prepared(), _task(), epochs=40, learning_rate=100.0, optimizer="sgd")


def test_an_observed_range_that_collapses_is_named_when_it_does() -> None:
    """A layer that gives nothing any more: its moving average goes to zero."""
    training = set_mode(_prepared(scales="observed"), True)
    nothing = torch.zeros(1, 4)

    def go_on() -> None:
        for _ in range(1000):
            training(nothing)

    with pytest.raises(InvalidInput, match=r"the range of 'input:0' collapsed .*Lower the learn"):
        go_on()


def test_a_collapsed_range_is_not_converted() -> None:
    """Also where something else than `fit` trained it."""
    prepared = _prepared()
    with torch.no_grad():
        prepared.get_parameter("graph_module.burnish_0_linear_weight_ratio")[3] = -9.0
    with pytest.raises(InvalidInput, match="'0:linear' collapsed in training"):
        convert_qat(prepared)


def test_a_weight_of_which_nothing_is_left_is_not_converted() -> None:
    """Its scale is within 1000 times its first size, and larger than every weight."""
    prepared = _prepared()
    with torch.no_grad():
        prepared.get_parameter("graph_module.burnish_0_linear_weight_ratio").fill_(900.0)
    with pytest.raises(InvalidInput, match=r"every weight of '0:linear' rounds to zero.*clip"):
        convert_qat(prepared)


def test_a_weight_that_is_not_finite_is_not_converted() -> None:
    prepared = _prepared()
    with torch.no_grad():
        next(p for p in prepared.parameters() if p.dim() == 2)[0, 0] = float("nan")
    with pytest.raises(InvalidInput, match="weight of '0:linear' holds NaN"):
        convert_qat(prepared)


def test_settings_out_of_range() -> None:
    with pytest.raises(InvalidInput, match="scales='guessed'"):
        PrepareQat(scales="guessed")  # type: ignore[arg-type]
    for share in (0.0, 1.5, -0.1, True, "half"):
        with pytest.raises(InvalidInput, match="above 0 and up to 1"):
            PrepareQat(frozen_from=share)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="training moves the weights themselves"):
        PrepareQat(weights=Weights(rounding="learned"))
    with pytest.raises(InvalidInput, match="no int8 placement for runtime 'cuda'"):
        PrepareQat("cuda")
    with pytest.raises(InvalidInput, match="matches nothing"):
        _prepared(exclude=("nothing",))


def test_a_model_in_which_nothing_can_be_quantized() -> None:
    tiny = TINIES["lstm"]
    inputs = tiny.inputs(4)
    calls = [flatten_call(inputs.args, inputs.kwargs)]
    heads = tuple(
        row["operator"]
        for row in PrepareQat().choose_from(once.traced(tiny), calls).plan["coverage"]
        if row["state"] == "int8"
    )
    with pytest.raises(NoEffect, match="keeps recurrent layers in float: take QuantizeStatic"):
        PrepareQat(exclude=heads).choose_from(once.traced(tiny), calls)
    with pytest.raises(NoEffect, match="no operator could be quantized"):
        prepare_qat(nn.Sequential(nn.Softmax(-1)), [x for x, _ in _rows()])


def test_a_plan_of_another_model() -> None:
    goal = Goal(_task())
    prepared = PrepareQat().apply(Candidate(_network()), goal)
    other = nn.Sequential(nn.Linear(4, 8), nn.Tanh()).eval()
    with pytest.raises(InvalidInput, match="belongs to another model"):
        PrepareQat().rewrite(other, prepared.history[0].choices)
    trained = (Train(1, 1e-3) >> ConvertQat()).apply(prepared, goal)
    with pytest.raises(InvalidInput, match="holds no fake quantizers"):
        ConvertQat().rewrite(_network(), trained.history[-1].choices)

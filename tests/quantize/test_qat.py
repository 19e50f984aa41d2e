"""Quantization-aware training: what is trained is what is deployed, and training is worth it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from burnish.core import Candidate
from burnish.distill import Distill
from burnish.goal import Goal, Inputs, Task
from burnish.graph import (
    FAKE,
    FAKE_QUANTIZE,
    QUANTIZE,
    Traced,
    flatten,
    flatten_call,
    operator_names,
    set_mode,
    set_progress,
)
from burnish.metrics import top1
from burnish.quantize import (
    ConvertQat,
    PrepareQat,
    Weights,
    calibrate,
    convert_qat,
    coverage,
    prepare_qat,
    quantize_static,
)
from burnish.quantize._qat.qat import Scales
from burnish.recipe import load_history, replay, save_history
from burnish.testing import Tiny, catalogue
from burnish.train import Train, evaluate, fit
from tests import once

RUNTIMES = ("onnxruntime", "openvino")
SCALES: tuple[Scales, ...] = ("learned", "observed")
TINIES = {tiny.name: tiny for tiny in catalogue()}
# One runtime each by default: what differs between the two is placement, and that is tested there.
FEW = {
    "onnxruntime": ("separable", "shuffle"),
    "openvino": ("concat", "shared_module"),
}
CASES = [
    pytest.param(tiny, runtime, id=f"{name}-{runtime}", marks=marks)
    for name, tiny in TINIES.items()
    for runtime in RUNTIMES
    for marks in [() if name in FEW[runtime] else pytest.mark.slow]
    if not tiny.recurrent  # static quantization makes int8 of an LSTM, training does not
]
STEPS = {"PrepareQat": PrepareQat, "Train": Train, "Distill": Distill, "ConvertQat": ConvertQat}


class Network(nn.Module):
    """Two convolutions with batch-norm, one of them depthwise behind a ReLU6, and a linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8 * 9, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu6(self.norm(self.stem(x)))
        logits: torch.Tensor = self.head(F.relu(self.deep(x)).flatten(1))
        return logits


def _batches(num: int, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randn(4, 1, 3, 3, generator=torch.Generator().manual_seed(99))
    found = []
    for _ in range(num):
        labels = torch.randint(0, 4, (32,), generator=generator)
        noise = torch.randn(32, 1, 3, 3, generator=generator)
        found.append((kinds[labels] + 0.9 * noise, labels))
    return found


def _task(calibrated: bool = True) -> Task:
    train = _batches(12, 1)
    return Task(
        inputs=Inputs(train[0][0][:2]),
        metric=top1,
        train=train,
        validation=_batches(12, 2),
        calibration=[images for images, _ in train[:4]] if calibrated else None,
        loss=F.cross_entropy,
    )


@functools.cache
def _trained() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return fit(Network(), _task(), epochs=4, learning_rate=1e-2).model.eval()


def _network() -> nn.Module:
    return copy.deepcopy(_trained())


def _images() -> list[torch.Tensor]:
    return [images for images, _ in _batches(4, 1)]


def _fakes(traced: Traced) -> int:
    return sum(node.target is FAKE_QUANTIZE for node in traced.graph_module.graph.nodes)


def _outputs(model: nn.Module, inputs: Inputs) -> Sequence[torch.Tensor]:
    with torch.no_grad():
        return flatten(model(*inputs.args, **inputs.kwargs))[0]


@pytest.mark.parametrize(("tiny", "runtime"), CASES)
def test_before_training_it_is_the_static_model_bit_for_bit(tiny: Tiny, runtime: str) -> None:
    """Both kinds of scales, prepared and converted; the prepared graph holds no quantizer."""
    traced, folded = once.traced(tiny), once.folded(tiny)
    drawn = [tiny.inputs(4, seed=seed) for seed in range(2)]
    calls = [flatten_call(inputs.args, inputs.kwargs) for inputs in drawn]
    static = PrepareQat(runtime).static()
    choices = static.choose_from(folded, calibrate(folded, calls))
    wanted = _outputs(static.rewrite(folded, choices), tiny.inputs(5, seed=9))
    for scales in SCALES:
        step = PrepareQat(runtime, scales)
        prepared = step.rewrite(traced, step.choose_from(traced, calls))
        assert isinstance(prepared, Traced)
        assert _fakes(prepared) > 0
        assert all(node.target is not QUANTIZE for node in prepared.graph_module.graph.nodes)
        for model in (prepared, convert_qat(prepared)):
            for mine, its in zip(_outputs(model, tiny.inputs(5, seed=9)), wanted, strict=True):
                assert torch.equal(mine, its)


@pytest.mark.parametrize(
    ("runtime", "scales"),
    [
        ("onnxruntime", "learned"),
        ("openvino", "observed"),
        pytest.param("onnxruntime", "observed", marks=pytest.mark.slow),
        pytest.param("openvino", "learned", marks=pytest.mark.slow),
    ],
)
def test_what_was_trained_is_what_is_converted(runtime: str, scales: Scales) -> None:
    """Bit for bit, after weights, biases and scales have moved; and it learned something."""
    prepared = prepare_qat(
        _network(), _images(), runtime=runtime, scales=scales, weights=Weights(bits=3)
    )
    trained = fit(prepared, _task(), epochs=2, learning_rate=5e-3).model
    converted = convert_qat(trained)
    assert all(node.target not in FAKE for node in converted.graph_module.graph.nodes)
    task = _task()
    assert evaluate(trained, task, "train").figure >= evaluate(prepared, task, "train").figure
    for images, _ in task.data("validation"):
        with torch.no_grad():
            assert torch.equal(trained(images), converted(images))
            assert not torch.equal(trained(images), prepared(images))


def _rows(num: int, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randn(8, 9, generator=torch.Generator().manual_seed(99))
    found = []
    for _ in range(num):
        labels = torch.randint(0, 8, (32,), generator=generator)
        noise = torch.randn(32, 9, generator=generator)
        found.append((kinds[labels] + 0.6 * noise, labels % 4))
    return found


def test_training_regains_what_few_bits_lose() -> None:
    """Weights of two bits between a first and a last layer of eight: 1.6 points, and back."""
    train, weights = _rows(24, 1), Weights(bits=2)
    task = Task(
        inputs=Inputs(train[0][0][:2]),
        metric=top1,
        train=train,
        validation=_rows(24, 2),
        loss=F.cross_entropy,
    )
    sizes = ((9, 24), (24, 24), (24, 24), (24, 4))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [part for size in sizes for part in (nn.Linear(*size), nn.ReLU())]
        started = nn.Sequential(*layers[:-1])
    network = fit(started, task, epochs=6, learning_rate=1e-2).model.eval()
    calibration = [x for x, _ in train[:4]]
    prepared = prepare_qat(network, calibration, weights=weights)
    trained = convert_qat(fit(prepared, task, epochs=3, learning_rate=5e-3).model)
    static = quantize_static(network, calibration, weights=weights)
    before, quantized, after = (
        evaluate(model, task, "validation").figure for model in (network, static, trained)
    )
    assert before - quantized > 0.01
    assert after - quantized >= 0.5 * (before - quantized)


def test_all_that_is_quantized_learns() -> None:
    """Folded weights and biases, learned scales of values and of channels; batch-norm is gone."""
    prepared = prepare_qat(_network(), _images(), frozen_from=1.0)
    names = set(operator_names(prepared.graph_module).values())
    assert not any("batch_norm" in name for name in names)
    trained = fit(prepared, _task(), epochs=1, learning_rate=1e-2).model
    before, after = dict(prepared.named_parameters()), dict(trained.named_parameters())
    assert [p.numel() for name, p in before.items() if name.endswith("weight_ratio")] == [8, 8, 4]
    assert sum(name.endswith("_ratio") for name in before) == 3 + 3  # three weights, three values
    assert len(before) == 6 + 3 + 3
    for name, tensor in before.items():
        assert not torch.equal(tensor, after[name]), name


def test_ranges_freeze_from_a_share_of_the_training_on() -> None:
    """A training that stops at the share, and one that goes on: the scales are the same."""
    task = _task()
    endings: tuple[tuple[Scales, str], ...] = (("learned", "_ratio"), ("observed", "_seen"))
    for scales, ending in endings:
        prepared = prepare_qat(_network(), _images(), scales=scales, frozen_from=0.5)
        kept: list[dict[str, torch.Tensor]] = []

        def note(model: nn.Module, ending: str = ending, kept: Any = kept) -> torch.Tensor:
            state = {n: t.detach().clone() for n, t in model.state_dict().items()}
            kept.append({name: t for name, t in state.items() if name.endswith(ending)})
            return torch.zeros(())

        fit(prepared, task, epochs=2, learning_rate=1e-2, regularizer=note)
        assert len(kept) == 24
        assert all(not torch.equal(kept[0][name], kept[12][name]) for name in kept[0])
        for later in kept[13:]:
            assert all(torch.equal(kept[12][name], later[name]) for name in later)


@pytest.mark.parametrize(
    "runtime", ["openvino", pytest.param("onnxruntime", marks=pytest.mark.slow)]
)
def test_the_whole_history_is_replayed_from_the_float_model(runtime: str, tmp_path: Any) -> None:
    """From JSON and safetensors, with a training and a distillation from the float model in it."""
    goal, training = Goal(_task(), seed=3), Train(1, 5e-3)
    chain = (
        PrepareQat(runtime, exclude=("head",))
        >> training
        >> Distill(_network(), training=training)
        >> ConvertQat()
    )
    candidate = chain.apply(Candidate(_network()), goal)
    assert [applied.step for applied in candidate.history] == list(STEPS)
    save_history(tmp_path, candidate.history)
    again = replay(_network(), load_history(tmp_path), STEPS)
    for images, _ in goal.task.data("validation"):
        with torch.no_grad():
            assert torch.equal(again(images), candidate.model(images))


def test_values_on_one_grid_learn_one_scale() -> None:
    """OpenVINO's concatenation wants all its inputs on one scale, trained or not."""
    tiny = TINIES["concat"]
    step = PrepareQat("openvino")
    calls = [flatten_call(tiny.inputs(4, seed=seed).args, {}) for seed in range(2)]
    choices = step.choose_from(once.traced(tiny), calls)
    groups = choices.plan["groups"]
    assert len(groups) > len(set(groups.values()))
    prepared = step.rewrite(once.traced(tiny), choices)
    with torch.no_grad():
        for name, tensor in prepared.named_parameters():
            if name.endswith("_ratio"):
                tensor.mul_(1 + torch.rand(tensor.shape, generator=_generator(name)) / 10)
    scales = ConvertQat().choose(prepared, tiny.goal()).plan["quantizers"]
    for value, group in groups.items():
        assert scales[value]["scale"] == scales[group]["scale"]
        assert scales[value]["scale"] != choices.plan["quantizers"][value]["scale"]


def _generator(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(len(name))


def test_a_weight_that_two_layers_share_stays_one() -> None:
    tiny = TINIES["tied_weights"]
    step = PrepareQat()
    inputs = tiny.inputs(4)
    calls = [flatten_call(inputs.args, inputs.kwargs)]
    choices = step.choose_from(once.traced(tiny), calls)
    prepared = step.rewrite(once.traced(tiny), choices)
    assert isinstance(prepared, Traced)
    loss = sum(output.square().mean() for output in flatten(prepared(*inputs.args))[0])
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    before = [p.shape for p in once.traced(tiny).parameters() if p.dim() > 1]
    assert [p.shape for p in prepared.parameters() if p.dim() > 1] == before


def test_a_layer_the_user_froze_stays_as_it_is() -> None:
    network = _network()
    network.get_submodule("stem").requires_grad_(False)
    prepared = prepare_qat(network, _images())
    trained = fit(prepared, _task(), epochs=1, learning_rate=1e-2).model
    fixed = [n for n, t in prepared.state_dict().items() if n.endswith("stem_conv2d_weight")]
    fixed = fixed or [n for n in prepared.state_dict() if "stem" in n and n.endswith("_weight")]
    assert len(fixed) == 1
    assert torch.equal(prepared.state_dict()[fixed[0]], trained.state_dict()[fixed[0]])


def test_recurrent_layers_stay_float_and_the_table_says_so() -> None:
    tiny = TINIES["lstm"]
    inputs = tiny.inputs(4)
    step = PrepareQat("openvino")
    choices = step.choose_from(once.traced(tiny), [flatten_call(inputs.args, inputs.kwargs)])
    rows = [row for row in coverage(choices) if row.kind == "lstm"]
    assert rows
    assert all(row.state == "float" and "keeps it in float" in row.reason for row in rows)
    converted = convert_qat(step.rewrite(once.traced(tiny), choices))
    assert any("lstm" in name for name in operator_names(converted.graph_module).values())


def test_the_result_can_be_read_like_a_static_one() -> None:
    """Same operators, same coverage, no calibration behind it."""
    prepared = prepare_qat(_network(), _images(), exclude=("head",))
    choices = ConvertQat().choose(prepared, Goal(_task()))
    states = {row.operator: row.state for row in coverage(choices)}
    assert states["head:linear"] == "float"
    assert states["stem:conv2d"] == "int8"
    assert set(choices.plan["operators"]) == {"stem:conv2d", "deep:conv2d"}
    assert choices.tensors["weight:stem:conv2d"].dtype == torch.int8


def test_a_training_leaves_the_prepared_model_and_the_users_alone() -> None:
    network = _network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    prepared = prepare_qat(network, _images())
    kept = {name: tensor.clone() for name, tensor in prepared.state_dict().items()}
    fit(prepared, _task(), epochs=1, learning_rate=1e-2)
    convert_qat(prepared)
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())
    assert all(torch.equal(kept[name], t) for name, t in prepared.state_dict().items())


def test_a_graph_still_in_train_mode_is_converted_as_it_is_in_eval_mode() -> None:
    prepared = prepare_qat(_network(), _images(), scales="observed")
    training = set_mode(prepared, True)
    set_progress(training, 0.0)
    training(_images()[0])
    images = _images()[1]
    with torch.no_grad():
        assert torch.equal(convert_qat(training)(images), set_mode(training, False)(images))
        assert not torch.equal(convert_qat(training)(images), prepared(images))


def test_folding_keeps_what_the_float_model_computes() -> None:
    """With 8 bits and nothing trained the logits are near those of the model it was made from."""
    prepared, network = prepare_qat(_network(), _images()), _network()
    images = _images()[0]
    with torch.no_grad():
        error = (prepared(images) - network(images)).square().mean().sqrt()
        assert float(error) < 0.05 * float(network(images).std())

"""Sensitivity: what quantizing one operator alone does, against quantizing it alone."""

from __future__ import annotations

import functools
import importlib.util
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import spearmanr
from torch import nn

from burnish.core import Choices
from burnish.errors import Damaged, InvalidInput, Unsupported
from burnish.graph import Traced, flatten_call, operator_names
from burnish.quantize import (
    QuantizeStatic,
    Sensitivity,
    Statistics,
    calibrate,
    sensitivity,
)
from burnish.testing import catalogue
from tests import once
from tests.quantize.quick import Call, folded, quantized


@functools.cache
def prepared(name: str) -> tuple[Traced, Statistics, tuple[Call, ...]]:
    tiny = next(tiny for tiny in catalogue() if tiny.name == name)
    inputs = [tiny.inputs(8, seed=seed) for seed in range(2)]
    calls = tuple(flatten_call(call.args, call.kwargs) for call in inputs)
    model = once.folded(tiny)
    return model, calibrate(model, calls), calls


@functools.cache
def chosen(name: str, runtime: str) -> Choices:
    model, statistics, _ = prepared(name)
    return QuantizeStatic(runtime).choose_from(model, statistics)


@functools.cache
def table(name: str, runtime: str, method: str = "output error") -> Sensitivity:
    model, _, calls = prepared(name)
    return sensitivity(model, chosen(name, runtime), calls, method=method)  # type: ignore[arg-type]


def error_of(model: Traced, other: Traced, calls: tuple[Call, ...]) -> float:
    """The relative squared error of all outputs, the plain way."""
    error = power = 0.0
    with torch.inference_mode():
        for call in calls:
            pairs = zip(other.graph_module(*call), model.graph_module(*call), strict=True)
            for given, wanted in pairs:
                error += float((given - wanted).double().square().sum())
                power += float(wanted.double().square().sum())
    return error / power


@pytest.mark.parametrize(
    ("name", "runtime"),
    [("plain_cnn", "onnxruntime"), ("residual", "openvino"), ("encoder", "onnxruntime")],
)
def test_the_error_is_that_of_quantizing_exactly_that_operator(name: str, runtime: str) -> None:
    """Weighted operators one by one, all others excluded from `QuantizeStatic`."""
    model, statistics, calls = prepared(name)
    names = [row.operator for row in table(name, runtime).rows]
    layers = [row for row in table(name, runtime).rows if row.kind in ("conv2d", "linear")]
    assert len(layers) >= 3
    for row in layers[:: max(1, len(layers) // 3)]:
        others = tuple(other for other in names if other != row.operator)
        alone, _ = quantized(model, statistics, runtime, exclude=others)
        assert error_of(model, alone, calls) == pytest.approx(row.output_error, rel=1e-3), row


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_operators_without_weights_are_quantized_alone_too(runtime: str) -> None:
    """Of an addition: its plan with nothing else in it, put into the graph by `rewrite`."""
    name = "residual"
    model, _, calls = prepared(name)
    choices = chosen(name, runtime)
    row = next(row for row in table(name, runtime).rows if row.kind == "add")
    quantizers = {
        value: entry | {"readers": [row.operator]}
        for value, entry in choices.plan["quantizers"].items()
        if entry["readers"] is None or row.operator in entry["readers"]
    }
    reads = _read_by(model, row.operator, quantizers)
    if runtime == "onnxruntime":  # behind the addition and the ReLU it swallows
        reads |= {"relu#2": choices.plan["quantizers"]["relu#2"]}
    plan = {**choices.plan, "operators": [], "quantizers": reads, "equalized": []}
    alone = QuantizeStatic(runtime).rewrite(model, Choices(plan, {}))
    assert isinstance(alone, Traced)
    assert error_of(model, alone, calls) == pytest.approx(row.output_error, rel=1e-3)


def _read_by(model: Traced, operator: str, quantizers: dict) -> dict:
    names = operator_names(model.graph_module)
    node = next(node for node, name in names.items() if name == operator)
    sources = {names[source] for source in node.all_input_nodes}
    return {value: entry for value, entry in quantizers.items() if value in sources}


@pytest.mark.parametrize(
    ("name", "runtime"), [("residual", "openvino"), ("encoder", "onnxruntime")]
)
def test_both_methods_rank_alike(name: str, runtime: str) -> None:
    """Spearman's rank correlation, on 64 samples: with 16 the signs' own noise shows."""
    tiny = next(tiny for tiny in catalogue() if tiny.name == name)
    inputs = [tiny.inputs(16, seed=10 + seed) for seed in range(4)]
    calls = [flatten_call(call.args, call.kwargs) for call in inputs]
    assert correlation(prepared(name)[0], chosen(name, runtime), calls) > 0.75


def correlation(model: Traced, choices: Choices, calls: Sequence[Call]) -> float:
    exact = sensitivity(model, choices, calls)
    first = sensitivity(model, choices, calls, method="gradient")
    errors = [[row.output_error for row in found.rows] for found in (exact, first)]
    return float(spearmanr(*errors)[0])


@pytest.mark.parametrize(
    "runtime", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)]
)
def test_both_methods_rank_a_trained_network_alike(runtime: str, shared_data: Path) -> None:
    """ResNet-20 with its CIFAR-10 weights and 32 of its images: about 30 operators."""
    pil = pytest.importorskip("PIL.Image")
    model = resnet20(shared_data)
    with zipfile.ZipFile(shared_data / "cifar10-jpeg.zip") as archive:
        paths = sorted(name for name in archive.namelist() if name.startswith("test/"))
        jpegs = [name for name in paths if name.endswith(".jpg")]
        names = jpegs[:: len(jpegs) // 32][:32]
        pixels = [np.asarray(pil.open(io.BytesIO(archive.read(name)))) for name in names]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    x = (images - mean[:, None, None]) / deviation[:, None, None]
    plain = folded(model, x[:2])
    choices = QuantizeStatic(runtime).choose_from(plain, calibrate(plain, [(x,)]))
    assert correlation(plain, choices, [(part,) for part in x.split(8)]) > 0.75


def resnet20(data: Path) -> nn.Module:
    """The benchmarks' network, which is no package of ours."""
    path = Path(__file__).parents[2] / "benchmarks" / "networks" / "resnet20.py"
    spec = importlib.util.spec_from_file_location("resnet20", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network: nn.Module = module.ResNet20()
    network.load_state_dict(load_file(data / "resnet20-cifar10-jpeg.safetensors"))
    return network.eval()


def test_the_first_order_estimate_is_unbiased_where_the_network_is_linear() -> None:
    """With no nonlinearity behind, (g·d)² has the exact error for its mean."""
    torch.manual_seed(0)
    model = folded(
        nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)), torch.randn(2, 8)
    )
    calls = [(torch.randn(256, 8),)]
    choices = QuantizeStatic("openvino").choose_from(model, calibrate(model, calls))
    exact = sensitivity(model, choices, calls)
    first = sensitivity(model, choices, calls, method="gradient")
    for row in exact.rows:
        assert first[row.operator].output_error == pytest.approx(row.output_error, rel=0.35)
    last = exact.rows[-1]
    both = last.weight_error + last.activation_error
    assert last.output_error == pytest.approx(both, rel=0.2)


def test_a_metric_changes_as_it_does_when_the_operator_is_quantized() -> None:
    model, statistics, calls = prepared("plain_cnn")
    with torch.inference_mode():
        targets = [model.graph_module(*call)[0] + 0.1 for call in calls]

    def score(outputs, target):
        return -(outputs - target).abs().mean(1)

    step = QuantizeStatic("openvino")
    found = sensitivity(model, step, calls, targets=targets, score=score)
    row = found.rows[1]
    others = tuple(other.operator for other in found.rows if other != row)
    alone, _ = quantized(model, statistics, "openvino", exclude=others)
    with torch.inference_mode():
        pairs = list(zip(calls, targets, strict=True))
        now = torch.cat([score(alone.graph_module(*c)[0], t) for c, t in pairs]).mean()
        before = torch.cat([score(model.graph_module(*c)[0], t) for c, t in pairs]).mean()
    assert row.metric_change == pytest.approx(float(now - before), abs=1e-6)
    assert "metric" in str(found)


def test_a_loss_is_followed_to_first_order() -> None:
    """On one call: the table's value is what the loss changes by, as far as it is straight."""
    model, _, calls = prepared("plain_cnn")
    target = torch.zeros(8, dtype=torch.int64)
    found = sensitivity(
        model,
        chosen("plain_cnn", "openvino"),
        calls[:1],
        method="gradient",
        targets=[target],
        loss=nn.functional.cross_entropy,
    )
    assert found.method == "gradient of the loss"
    scored = sensitivity(
        model,
        chosen("plain_cnn", "openvino"),
        calls[:1],
        targets=[target],
        score=functools.partial(nn.functional.cross_entropy, reduction="none"),
    )
    for row in scored.rows:
        assert row.metric_change is not None
        wanted, given = abs(row.metric_change), found[row.operator].output_error
        assert given == pytest.approx(wanted, rel=0.25, abs=2e-5)


def test_the_table_survives_json_and_is_sorted_by_worth() -> None:
    found = table("residual", "onnxruntime")
    again = Sensitivity.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False)))
    assert again == found
    ranked = found.ranked()
    assert [row.output_error for row in ranked] == sorted(
        (row.output_error for row in found.rows), reverse=True
    )
    lines = str(found).splitlines()
    assert lines[1].split()[0] == ranked[0].operator
    assert lines[-2].startswith("all together")
    assert lines[-1] == "by output error, 16 samples"
    with pytest.raises(Damaged, match="schema 9"):
        Sensitivity.from_json({**found.to_json(), "schema": 9})
    with pytest.raises(Damaged, match="no sensitivity table"):
        Sensitivity.from_json({"schema": 1})
    with pytest.raises(InvalidInput, match="'x' is no quantized operator"):
        found["x"]


def test_it_leaves_the_graph_as_it_was() -> None:
    model, _, calls = prepared("encoder")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    code = model.graph_module.code
    sensitivity(model, chosen("encoder", "openvino"), calls[:1], method="gradient")
    assert model.graph_module.code == code
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_does_not_go_together_is_refused() -> None:
    model, _, calls = prepared("plain_cnn")
    choices = chosen("plain_cnn", "openvino")
    ones = [1] * len(calls)

    def run(*, given=calls, **settings):
        return sensitivity(model, choices, given, **settings)

    with pytest.raises(InvalidInput, match="method='hessian'"):
        run(method="hessian")
    with pytest.raises(InvalidInput, match="a score has no gradient"):
        run(method="gradient", score=len, targets=ones)
    with pytest.raises(InvalidInput, match="a loss is for"):
        run(loss=len, targets=ones)
    with pytest.raises(InvalidInput, match="targets go with"):
        run(score=len)
    with pytest.raises(InvalidInput, match="fewer targets than calls"):
        run(score=lambda out, target: out[:, 0], targets=ones[:1])
    with pytest.raises(InvalidInput, match="more targets than calls"):
        run(score=lambda out, target: out[:, 0], targets=[*ones, 1])
    with pytest.raises(InvalidInput, match="not one number for each sample"):
        run(score=lambda out, target: out.mean(), targets=ones)
    with pytest.raises(InvalidInput, match="the calls are empty"):
        run(given=[])
    with pytest.raises(InvalidInput, match="the model was traced with"):
        run(given=[(torch.randn(2, 3, 5, 5),)])
    with pytest.raises(InvalidInput, match="not those of a QuantizeStatic"):
        sensitivity(model, Choices({"operators": []}, {}), calls)
    done = QuantizeStatic("openvino").rewrite(model, choices)
    assert isinstance(done, Traced)
    with pytest.raises(InvalidInput, match="quantized already"):
        sensitivity(done, choices, calls)


def test_writing_in_place_is_refused_by_name() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.layer(x)
            y[:, 0] = 1.0
            return y

    model = folded(Writes(), torch.randn(4, 4))
    with pytest.raises(Unsupported, match="writes into its input"):
        sensitivity(model, QuantizeStatic("openvino"), [(torch.randn(4, 4),)])

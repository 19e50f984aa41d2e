"""Weights in blocks: what is stored, what is left alone and why, and what is refused."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import nn

from burnish.core import Candidate, Choices
from burnish.errors import InvalidInput, NoEffect
from burnish.goal import Inputs
from burnish.graph import DEQUANTIZE, DEQUANTIZE_BLOCKS, Traced, trace
from burnish.quantize import (
    Coverage,
    QSpec,
    QTensor,
    QuantizeWeights,
    coverage,
    fold,
    quantize_static,
    quantize_weights,
)
from burnish.quantize._blocks.round import BlockSpec, round_nearest
from burnish.quantize._smooth.smooth import sampled
from burnish.testing import RewriteContract, Tiny, catalogue
from tests import once
from tests.quantize.weight_only import (
    IDS,
    IMAGES,
    X40,
    Convolutional,
    Product,
    Tied,
    packed_bytes,
    seeded,
    unpacked,
)

TINIES = {tiny.name: tiny for tiny in catalogue()}


class Contract(RewriteContract):
    def step(self) -> QuantizeWeights:
        return QuantizeWeights(block_size=16)

    def names_in(self, choices: Choices) -> Iterable[str]:
        return [*choices.plan["operators"], *(row["operator"] for row in choices.plan["coverage"])]


class TestFromUntraced(Contract):
    def tinies(self) -> Iterable[Tiny]:
        return [TINIES["tied_weights"]]


class TestFromTraced(Contract):
    def candidate(self, tiny: Tiny) -> Candidate:
        return Candidate(once.traced(tiny).copy())

    def tinies(self) -> Iterable[Tiny]:
        return [TINIES["gru"]]


@pytest.mark.slow
class TestEverywhere(Contract):
    """On the whole catalogue."""


@pytest.mark.slow
class TestEverywhereByHqq(Contract):
    """The integers are in the choices: they must survive the file."""

    def step(self) -> QuantizeWeights:
        return QuantizeWeights(block_size=16, method="hqq")


@functools.cache
def convolutional() -> Traced:
    """Traced once."""
    return trace(seeded(Convolutional), (IMAGES,))


def rows_of(model: nn.Module, example: torch.Tensor, step: QuantizeWeights) -> dict[str, Coverage]:
    return {r.operator: r for r in coverage(step.choose_from(fold(trace(model, (example,)))))}


def restated_nearest(weight: torch.Tensor, bits: int, block: int, symmetric: bool) -> torch.Tensor:
    """Each block's range over its steps, each value to the nearest of them; in float64."""
    found = torch.empty(weight.shape, dtype=torch.float64)
    high, middle = 2**bits - 1, 2 ** (bits - 1)
    for row in range(weight.shape[0]):
        for start in range(0, weight.shape[1], block):
            values = weight[row, start : start + block].double()
            least, most = min(0.0, float(values.min())), max(0.0, float(values.max()))
            scale = max(-least, most) / (high - middle) if symmetric else (most - least) / high
            zero = middle if symmetric else round(-least / scale)
            codes = (values / scale).round().add(zero).clamp(0, high)
            found[row, start : start + block] = (codes - zero) * scale
    return found


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_rounds_each_block_to_nearest(bits: int, symmetric: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(50, 6).eval()
    graph = quantize_weights(layer, torch.randn(4, 50), bits=bits, symmetric=symmetric)
    (found,) = unpacked(graph)
    wanted = restated_nearest(layer.weight.detach(), bits, 32, symmetric)
    # A value in the middle of two steps may fall to either: float32 divides, float64 here.
    step = float(wanted.abs().max()) / 2 ** (bits - 1)
    assert float((found - wanted).abs().max()) < 1.01 * step
    assert float(((found - wanted).abs() > 1e-6).double().mean()) < 0.01
    assert float((found - layer.weight.detach()).abs().mean()) < step


def test_is_the_number_format_of_qtensor() -> None:
    """The same integers as a QTensor of that granularity: one format, not two."""
    torch.manual_seed(0)
    weight, spec = torch.randn(5, 40), BlockSpec(4, 16)
    codes, scale, zero = round_nearest(weight, spec)
    tensor = QTensor.from_int_repr(
        codes, scale, zero, QSpec("uint4", "block", 1, 16, symmetric=False)
    )
    (found,) = unpacked(quantize_weights(_holding(weight), torch.randn(3, 40), block_size=16))
    assert torch.equal(found, tensor.dequantize())


def _holding(weight: torch.Tensor) -> nn.Module:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer.eval()


def test_rows_in_pieces_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    weight, spec = torch.randn(9, 40), BlockSpec(4, 16)
    whole = round_nearest(weight, spec)
    monkeypatch.setattr("burnish.quantize._blocks.round._AT_ONCE", 100)
    pieces = round_nearest(weight, spec)
    torch.testing.assert_close(pieces, whole, rtol=0, atol=0)


def test_every_kind_of_layer() -> None:
    """Convolutions by output channel, recurrent weights, tables, `x @ matrix` turned."""
    model = convolutional()
    graph = quantize_weights(model, IMAGES, bits=8)
    shapes = [tuple(weight.shape) for weight in unpacked(graph)]
    convolutions = [(8, 3, 3, 3), (8, 1, 3, 3), (4, 4, 3, 3)]
    assert shapes == [*convolutions, *[(30, 24), (30, 10)] * 2, (3, 20)]
    assert float((graph(IMAGES) - model(IMAGES).detach()).abs().max()) < 0.02
    product = seeded(Product)
    turned = quantize_weights(product, X40, bits=8)
    assert [tuple(weight.shape) for weight in unpacked(turned)] == [(24, 40), (1, 24)]
    assert float((turned(X40) - product(X40).detach()).abs().max()) < 0.1


def test_a_weight_is_stored_once() -> None:
    """A layer used twice and a table that is a head's weight: one set of codes each."""
    graph = quantize_weights(seeded(Tied), IDS)
    assert len(unpacked(graph)) == 4
    # Rows of 48 numbers are two blocks of 32.
    assert packed_bytes(graph) == (60 + 48) * 64 // 2
    assert not any(t.numel() == 48 * 48 for t in graph.state_dict().values())


def test_the_model_is_read_and_neither_copied_nor_kept() -> None:
    """The graph shares parameters while it is made, and nothing of the result is the model's."""
    model = seeded(Tied)
    shared = trace(model, (IDS,), share=True)
    addresses = {p.data_ptr() for p in model.parameters()}
    assert {p.data_ptr() for p in shared.parameters()} == addresses
    graph = quantize_weights(model, IDS, exclude=("embed",))
    assert not addresses & {t.data_ptr() for t in graph.state_dict().values()}
    assert all(p.requires_grad for p in model.parameters())
    wanted = graph(IDS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    assert torch.equal(graph(IDS), wanted)


def test_what_stays_compressed_and_what_is_only_stored() -> None:
    rows = rows_of(convolutional(), IMAGES, QuantizeWeights(exclude=("grouped",)))
    assert rows["last:linear"] == Coverage("last:linear", "linear", "int4 weights", "")
    for name, kind in (("first.0:conv2d", "convolution"), ("rows:gru", "GRU")):
        assert rows[name].state == "int4 weights"
        assert f"floats once loaded: onnxruntime computes no {kind}" in rows[name].reason
    assert rows["grouped:conv2d"].state == "float"
    assert rows["grouped:conv2d"].reason == "excluded"
    assert "no weights" in rows["relu"].reason
    alone = rows_of(seeded(Product), X40, QuantizeWeights("openvino"))["last:linear"]
    assert "one output" in alone.reason
    kept = rows_of(seeded(Product), X40, QuantizeWeights())["last:linear"]
    assert kept.reason == ""


def test_batches_as_people_have_them() -> None:
    """A tensor alone, a dict alone, `Inputs` alone, or batches of each."""
    layer, x = nn.Linear(32, 4).eval(), torch.randn(5, 32)
    wanted = quantize_weights(layer, x)(x)
    batches: tuple[Any, ...] = ([x], [(x,)], iter([x]), {"input": x}, Inputs(x), [Inputs(x)])
    for calibration in batches:
        given = quantize_weights(layer, calibration)
        assert torch.equal(given(input=x) if isinstance(calibration, dict) else given(x), wanted)
    with pytest.raises(InvalidInput, match="calibration data is empty"):
        quantize_weights(layer, [])


class Norms(nn.Module):
    """A pre-norm feed-forward network: what AWQ scales."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.up, self.down = nn.Linear(32, 48), nn.Linear(48, 32)
        self.table = nn.Embedding(4, 32)
        with torch.no_grad():
            self.norm.weight[:3] = 20.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.down(torch.relu(self.up(self.norm(x)))) + self.table.weight[0]
        return y


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_methods_beat_rounding_to_nearest(method: str) -> None:
    """On the data they saw; integers in the choices, or factors, or neither where not needed."""
    model, x = seeded(Norms), torch.randn(96, 32, generator=torch.Generator().manual_seed(3))
    wanted = model(x).detach()

    def error(graph: Traced) -> float:
        return float((graph(x) - wanted).square().mean())

    nearest = quantize_weights(model, [x])
    better = quantize_weights(model, [x], method=method)
    assert error(better) < error(nearest)
    assert packed_bytes(better) == packed_bytes(nearest)


def test_hqq_beats_rounding_to_nearest_on_weights_drawn_at_random() -> None:
    """It sees no data: what it promises is about weights."""
    drawn = torch.Generator().manual_seed(0)
    layer, x = (
        _holding(torch.randn(256, 256, generator=drawn)),
        torch.randn(64, 256, generator=drawn),
    )
    wanted = layer(x).detach()
    errors = {
        method: float((quantize_weights(layer, x, method=method)(x) - wanted).square().mean())
        for method in ("hqq", "nearest")
    }
    assert errors["hqq"] < 0.97 * errors["nearest"]


def test_methods_tell_what_they_left_at_nearest() -> None:
    tiny = TINIES["separable"]
    step = QuantizeWeights(method="gptq", block_size=16)
    choices = step.choose(tiny.build(), tiny.goal())
    rows = coverage(choices)
    convolution = next(row for row in rows if row.kind == "conv2d")
    assert convolution.reason.endswith("rounded to nearest: GPTQ takes linear layers")
    assert {key.partition(":")[0] for key in choices.tensors} == {"packed", "scale", "zero"}
    nearest = QuantizeWeights().choose(tiny.build(), tiny.goal())
    assert not nearest.tensors


def test_awq_tells_what_it_scaled_where() -> None:
    model, x = seeded(Norms), torch.randn(96, 32, generator=torch.Generator().manual_seed(3))
    folded = fold(trace(model, (x,)))
    choices = QuantizeWeights(method="awq").choose_from(folded, sampled(folded, [(x,)]))
    rows = {row.operator: row for row in coverage(choices)}
    assert "scaled inside norm:layer_norm, alpha" in rows["up:linear"].reason
    assert {"made:norm:layer_norm", "read:up:linear"} <= set(choices.tensors)


def test_on_top_of_static_quantization() -> None:
    """What static quantization left in float is stored in blocks; what it took is left alone."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 16)).eval()
    x = torch.randn(16, 32)
    static = quantize_static(model, [x], exclude=("2",))
    step = QuantizeWeights()
    choices = step.choose_from(fold(static))
    rows = {row.operator: row for row in coverage(choices)}
    assert rows["0:linear"].reason == "quantized already"
    assert choices.plan["operators"] == {"2:linear": "linear"}
    mixed = step.rewrite(static, choices)
    assert isinstance(mixed, Traced)
    targets = [node.target for node in mixed.graph_module.graph.nodes]
    assert DEQUANTIZE in targets
    assert targets.count(DEQUANTIZE_BLOCKS) == 1
    assert 0 < float((mixed(x) - static(x)).detach().abs().max()) < 0.2


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"bits": 3}, "bits=3: one of 8, 4"),
        ({"bits": True}, "bits=True"),
        ({"block_size": 48}, "block_size=48: one of 16, 32, 64, 128, 256"),
        ({"block_size": -1}, "block_size=-1"),
        ({"method": "adaround"}, "'nearest', 'hqq', 'gptq', 'awq'"),
        ({"runtime": "eager"}, "'onnxruntime', 'openvino'"),
        ({"method": "hqq", "symmetric": True}, "a symmetric grid has none"),
        ({"symmetric": "yes"}, "True or False"),
        ({"include": "0"}, "a tuple of names"),
    ],
)
def test_settings_that_no_runtime_holds(settings: dict, error: str) -> None:
    with pytest.raises(InvalidInput, match=error):
        QuantizeWeights(**settings)


def test_models_with_nothing_to_store() -> None:
    x = torch.randn(3, 32)
    with pytest.raises(NoEffect, match="no weights that could be stored"):
        quantize_weights(nn.LayerNorm(32).eval(), x)
    broken = nn.Linear(32, 3)
    nn.init.constant_(broken.weight, float("nan"))
    with pytest.raises(NoEffect, match="infinities or NaN"):
        quantize_weights(broken.eval(), x)
    with pytest.raises(NoEffect, match="computes in bfloat16"):
        quantize_weights(nn.Linear(32, 3).bfloat16().eval(), x.bfloat16())
    model = nn.Sequential(nn.Linear(32, 8), nn.ReLU()).eval()
    with pytest.raises(InvalidInput, match="'1' holds no weight"):
        quantize_weights(model, x, include=("1",))
    with pytest.raises(InvalidInput, match="matches nothing"):
        quantize_weights(model, x, exclude=("2",))


def test_data_that_is_missing_and_models_done_already() -> None:
    model, x = nn.Sequential(nn.Linear(32, 8)).eval(), torch.randn(3, 32)
    with pytest.raises(InvalidInput, match=r"'gptq'.*give calibration data"):
        QuantizeWeights(method="gptq").choose_from(fold(trace(model, (x,))))
    with pytest.raises(NoEffect, match="none of 0:conv1d is one"):
        quantize_weights(nn.Sequential(nn.Conv1d(3, 4, 1)), torch.randn(3, 3, 5), method="awq")
    with pytest.raises(NoEffect, match="no layer gains from scaled channels"):
        quantize_weights(model, x, method="awq")
    done = quantize_weights(model, x)
    with pytest.raises(InvalidInput, match="in blocks already"):
        quantize_weights(done, x)
    with pytest.raises(InvalidInput, match="quantized already"):
        quantize_static(done, [x])
    choices = QuantizeWeights().choose_from(fold(trace(model, (x,))))
    with pytest.raises(InvalidInput, match="belongs to another model"):
        QuantizeWeights().rewrite(nn.Tanh().eval(), choices)

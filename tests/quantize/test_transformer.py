"""The transformer preset: what is recognised, what stays float, what the runtimes still fuse."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from burnish.errors import InvalidInput
from burnish.graph import Traced, operator
from burnish.quantize import QuantizeStatic, Statistics, calibrate
from burnish.quantize._graphs.patterns import attention, gelus
from burnish.quantize._graphs.place import place, quantizable
from burnish.quantize._graphs.policy import policy_for
from burnish.runtimes import export, load
from tests.quantize.quick import folded, quantized, reasons, seen, states

RUNTIMES = ("onnxruntime", "openvino")
LOWEST = torch.finfo(torch.float32).min
GELUS = {
    "fused": F.gelu,
    "erf": lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))),
    "erf, half last": lambda x: x * (1.0 + torch.erf(x * 0.7071067811865476)) * 0.5,
    "erf, half inside": lambda x: x * (0.5 * (torch.erf(x / 2.0**0.5) + 1.0)),
    "tanh": lambda x: (
        0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    ),
    "tanh, products": lambda x: (
        0.5 * x * (1.0 + torch.tanh(0.7978845608 * x * (1.0 + 0.044715 * x * x)))
    ),
}


class Layer(nn.Module):
    """An encoder layer of a BERT with a mask, its attention and its GELU in any of their forms."""

    def __init__(self, fused: bool = False, gelu: str = "erf", lowest: float = LOWEST) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key, self.value = (nn.Linear(32, 32) for _ in range(3))
        self.output = nn.Linear(32, 32)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)
        self.norm, self.second = nn.LayerNorm(32), nn.LayerNorm(32)
        self.fused, self.gelu, self.lowest = fused, gelu, lowest

    def forward(self, x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            layer(x).view(batch, length, 4, 8).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mask = torch.zeros(keep.shape).masked_fill(keep == 0, self.lowest)[:, None, None, :]
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            mixed = (q @ k.transpose(-1, -2) / math.sqrt(8) + mask).softmax(-1) @ v
        joined = mixed.transpose(1, 2).reshape(batch, length, 32)
        x = self.norm(x + self.output(joined))
        y: torch.Tensor = self.second(x + self.down(GELUS[self.gelu](self.up(x))))
        return y


def call(size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    keep = torch.ones(size, 6, dtype=torch.int64)
    keep[:, 4:] = 0
    return torch.randn(size, 6, 32, generator=generator), keep


@pytest.mark.parametrize("form", GELUS)
def test_gelu_is_found_in_any_form(form: str) -> None:
    net = nn.Module()
    net.forward = lambda x: GELUS[form](x.sin())
    found = gelus(folded(net, torch.randn(2, 4)).graph_module)
    assert len(found) == (0 if form == "fused" else 1)


@pytest.mark.parametrize(
    "other",
    [
        lambda x: x * (1.0 + torch.erf(x)),
        lambda x: x * torch.tanh(x),
        lambda x: x * 0.5 * (1.0 + torch.erf(x.cumsum(1) / 2.0**0.5)),
        lambda x: torch.tanh(x) * torch.sigmoid(x),
    ],
)
def test_what_is_no_gelu_is_not_taken_for_one(other) -> None:
    net = nn.Module()
    net.forward = lambda x: other(x.sin())
    assert gelus(folded(net, torch.randn(2, 4)).graph_module) == ()


def test_a_classifiers_softmax_is_no_attention() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1), nn.Linear(4, 4))
    assert not attention(folded(net, torch.randn(2, 4)).graph_module).present


@pytest.mark.parametrize("lowest", [LOWEST, float("-inf")])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_split_attention_keeps_its_float_parts(runtime: str, lowest: float) -> None:
    x = call()
    model = folded(Layer(lowest=lowest), *x)
    result, choices = quantized(model, seen(model, x), runtime)
    found, why = states(choices), reasons(choices)
    assert found["matmul"] == ("int8" if runtime == "openvino" else "float")
    assert why["matmul#2"] == "softmax times values: stays float by default"
    assert why["softmax"] == "too sensitive: stays float by default"
    residual = [n for n, reason in why.items() if reason.startswith("residual addition")]
    assert len(residual) == 2
    assert why["norm:layer_norm"] == "normalisation: stays float by default"
    linear = [n for n in found if n.endswith(":linear")]
    assert len(linear) == 6
    assert {found[n] for n in linear} == {"int8"}
    for entry in choices.plan["quantizers"].values():
        assert entry["scale"] < 1.0, "a mask entered a range"
    with torch.no_grad():
        wanted = model(*x)
        assert float((result(*x) - wanted).norm() / wanted.norm()) < 0.05


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_include_quantizes_what_is_float_by_default(runtime: str) -> None:
    x = call()
    model = folded(Layer(), *x)
    placement = place(model.graph_module, policy_for(runtime), (), ("matmul*",))
    assert {"matmul", "matmul#2"} <= set(placement.int8())
    assert "softmax" in placement.quantizers
    watched = quantizable(model.graph_module, policy_for(runtime))
    assert set(placement.quantizers) <= watched
    assert set(placement.quantizers) <= set(calibrate(model, [x]).histograms)


@pytest.mark.parametrize(
    ("include", "exclude", "message"),
    [
        (("attention",), (), r"include='attention' matches nothing; the first names are: "),
        (("norm",), (), r"onnxruntime cannot compute norm:layer_norm in int8 \(normalisation"),
        (("softmax",), (), "cannot compute softmax in int8"),
        (("add*",), (), "cannot compute add.* in int8"),
        (("matmul#2",), ("matmul*",), "matmul#2 is named by both exclude and include"),
    ],
)
def test_an_include_that_can_do_nothing_is_refused(
    include: tuple[str, ...], exclude: tuple[str, ...], message: str
) -> None:
    model = folded(Layer(), *call())
    with pytest.raises(InvalidInput, match=message):
        place(model.graph_module, policy_for("onnxruntime"), exclude, include)


@functools.cache
def observed(fused: bool, gelu: str) -> tuple[Traced, Statistics]:
    """A layer and its statistics, the same for both runtimes."""
    model = folded(Layer(fused, gelu), *call())
    return model, seen(model, call())


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("fused", "gelu"), [pytest.param(True, "fused", marks=pytest.mark.slow), (False, "tanh")]
)
def test_the_runtime_still_fuses(tmp_path: Path, runtime: str, fused: bool, gelu: str) -> None:
    """What the float artifact's counters show (normalisation, GELU, attention), int8's show too."""
    x = call()
    model, statistics = observed(fused, gelu)
    choices = QuantizeStatic(runtime).choose_from(model, statistics)
    counts, outputs = [], []
    for precision in ("float32", "int8"):
        graph = model
        if precision == "int8":
            rewritten = QuantizeStatic(runtime).rewrite(model, choices)
            assert isinstance(rewritten, Traced)
            graph = rewritten
        artifact = export(graph, runtime, tmp_path / precision, precision=precision)
        feed = {p.name: t.numpy() for p, t in zip(artifact.inputs, x, strict=True)}
        with load(artifact) as worker:
            outputs.append(torch.from_numpy(worker.run(feed)[0].copy()))
            kinds = [op.kind.split(":")[0] for op in worker.op_times(feed, repeats=1)]
        counts.append({kind: kinds.count(kind) for kind in _FUSIONS[runtime]})
    assert counts[0] == counts[1]
    assert any(counts[0].values())
    assert float((outputs[1] - outputs[0]).norm() / outputs[0].norm()) < 0.05


@pytest.mark.parametrize("form", [form for form in GELUS if form != "fused"])
def test_a_gelu_behind_a_convolution_becomes_one_operator(form: str) -> None:
    """onnxruntime gives each reader of a quantized value a dequantizer, and fuses no GELU then."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.two(GELUS[form](self.one(x)))
            return y

    x = torch.randn(8, 3, 9, 9)
    model = folded(Net(), x)
    result, _ = quantized(model, seen(model, (x,)))
    found = [operator(node) for node in result.graph_module.graph.nodes]
    assert found.count("gelu") == 1
    assert not {"erf", "tanh"} & set(found)
    with torch.no_grad():
        wanted = model(x)
        assert float((result(x) - wanted).norm() / wanted.norm()) < 0.03


_FUSIONS = {
    "onnxruntime": ("LayerNormalization", "SkipLayerNormalization", "BiasGelu", "FastGelu", "Gelu"),
    # Not "Subgraph": which layers OpenVINO joins into one is its choice, and differs with the type.
    "openvino": ("MVN", "Gelu", "Erf", "Tanh", "ScaledDotProductAttention", "Softmax"),
}

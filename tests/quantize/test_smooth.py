"""SmoothQuant: the function stays, the error of int8 falls where channels differ, "off" can win."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from burnish.core import Candidate, Choices
from burnish.errors import InvalidInput, NoEffect
from burnish.graph import Traced, flatten_call, operator, tensor_of
from burnish.quantize import SmoothQuant, coverage, smooth
from burnish.quantize._smooth.smooth import sampled
from burnish.testing import RewriteContract, Tiny, catalogue
from tests import once
from tests.quantize.preserving import models, same
from tests.quantize.quick import folded, quantized, reasons, seen

CONTRACT = ("attention_fused", "encoder")


def smoothed(
    model: Traced, *calls: tuple[torch.Tensor, ...], alpha: float | str = 0.5, **settings: bool
) -> tuple[Traced, Choices]:
    step = SmoothQuant(alpha, **settings)
    choices = step.choose_from(model, sampled(model, calls))
    result = step.rewrite(model, choices)
    assert isinstance(result, Traced)
    return result, choices


def homes(choices: Choices) -> dict[str, str | None]:
    return {group["value"]: group["into"] for group in choices.plan["groups"]}


@pytest.mark.parametrize("tiny", models())
def test_the_function_stays_on_the_whole_catalogue(tiny: Tiny) -> None:
    model = once.folded(tiny)
    drawn = [tiny.inputs(4, seed=seed) for seed in range(2)]
    try:
        result, choices = smoothed(model, *(flatten_call(c.args, c.kwargs) for c in drawn))
    except NoEffect:
        return
    inputs = tiny.inputs(3, seed=1)
    assert same(tiny.call(model, inputs), tiny.call(result, inputs))
    assert {row.state for row in coverage(choices)} <= {"smoothed", "left alone"}
    assert all(row.reason for row in coverage(choices))


class Block(nn.Module):
    """One encoder layer: fused or split attention, queries, keys and values in one or in three."""

    def __init__(self, heads: int, joined: bool, fused: bool, post: bool) -> None:
        super().__init__()
        width = 8 * heads
        sizes = [3 * width] if joined else [width] * 3
        self.projections = nn.ModuleList(nn.Linear(width, size) for size in sizes)
        self.output = nn.Linear(width, width)
        self.norm, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 16), nn.Linear(16, width)
        self.heads, self.fused, self.post = heads, fused, post

    def mixed(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        parts = torch.cat([p(x) for p in self.projections], -1).chunk(3, -1)
        if len(self.projections) == 3:
            parts = tuple(p(x) for p in self.projections)
        q, k, v = (p.view(batch, length, self.heads, -1).transpose(1, 2) for p in parts)
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = (q @ k.transpose(-1, -2) / 3.0).softmax(-1) @ v
        y: torch.Tensor = self.output(mixed.transpose(1, 2).reshape(batch, length, width))
        return y

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.post:
            x = self.norm(x + self.mixed(x))
            y: torch.Tensor = self.second(x + self.down(F.relu(self.up(x))))
        else:
            x = x + self.mixed(self.norm(x))
            y = x + self.down(F.relu(self.up(self.second(x))))
        return y


def spread(block: Block) -> None:
    """Give normalisations and values channels of very different size."""
    with torch.no_grad():
        for norm in (block.norm, block.second):
            norm.weight.mul_(torch.logspace(-1, 1, norm.weight.numel()))
        value = block.projections[-1]
        assert isinstance(value, nn.Linear)
        half = value.weight.shape[0] // 2
        value.weight[half:] *= 10.0
        block.up.weight[:3] *= 30.0


@settings(max_examples=5, deadline=None)
@given(
    heads=st.sampled_from([1, 2, 3]),
    joined=st.booleans(),
    fused=st.booleans(),
    post=st.booleans(),
    alpha=st.floats(0.0, 1.0),
    seed=st.integers(0, 999),
)
def test_the_function_stays_on_random_blocks(
    heads: int, joined: bool, fused: bool, post: bool, alpha: float, seed: int
) -> None:
    torch.manual_seed(seed)
    block = Block(heads, joined, fused, post)
    spread(block)
    x = torch.randn(4, 5, 8 * heads)
    model = folded(block, x)
    try:
        result, _ = smoothed(model, (x,), alpha=alpha)
    except NoEffect:
        return
    with torch.no_grad():
        assert same(model(x), result(x), 5e-6)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("joined", [True, False])
def test_factors_go_where_they_are_free(fused: bool, joined: bool) -> None:
    torch.manual_seed(0)
    block = Block(2, joined, fused, post=False)
    spread(block)
    x = torch.randn(16, 5, 16)
    result, choices = smoothed(folded(block, x), (x,), alpha=0.6)
    into = {str(home) for home in homes(choices).values()}
    assert {"norm:layer_norm", "second:layer_norm", "up:linear"} <= into
    value = "projections.0:linear" if joined else "projections.2:linear"
    # A concatenation of one part stands between where the three are one.
    assert value in into or joined
    assert None not in homes(choices).values() or joined
    kinds = [operator(node) for node in result.graph_module.graph.nodes]
    assert joined or "mul" not in kinds


def test_a_residual_branch_makes_it_cost_a_multiplication() -> None:
    torch.manual_seed(0)
    block = Block(2, False, True, post=True)
    spread(block)
    x = torch.randn(16, 5, 16)
    model = folded(block, x)
    result, choices = smoothed(model, (x,), alpha=0.6)
    assert homes(choices)["norm:layer_norm"] is None
    assert "costs a multiplication" in reasons(choices)["up:linear"]
    found = [n for n in result.graph_module.graph.nodes if operator(n) == "mul"]
    assert len(found) == sum(home is None for home in homes(choices).values())
    _, without = smoothed(model, (x,), alpha=0.6, multiply=False)
    assert None not in homes(without).values()
    assert reasons(without)["up:linear"] == "its input is read by other operators, too"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("alpha", ["auto", 0.5])
def test_int8_gains_on_outlier_channels(runtime: str, alpha: float | str) -> None:
    """Three channels of 64 are a hundred times the rest: the case the method was made for."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 32)).eval()
    norm = net[0]
    assert isinstance(norm, nn.LayerNorm)
    with torch.no_grad():
        norm.weight[[3, 20, 41]] *= 100.0
        net[1].weight[:, [3, 20, 41]] /= 100.0  # type: ignore[index, operator]
    x = torch.randn(64, 7, 64)
    model = folded(net, x)
    with torch.no_grad():
        wanted = model(x)
        graph, choices = smoothed(model, (x,), alpha=alpha)
        errors = []
        for candidate in (model, graph):
            result, _ = quantized(candidate, seen(candidate, (x,)), runtime)
            errors.append(float((result(x) - wanted).square().mean()))
    assert choices.plan["error"] < 0.2 * choices.plan["error_off"]
    assert errors[1] < 0.2 * errors[0]


def test_off_wins_where_nothing_is_gained() -> None:
    """Judged on the rows the factors were fitted to, this would look like a gain of a fifth."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 32))
    x = torch.randn(512, 64)
    with pytest.raises(NoEffect, match=r"off is as good.*without.*with alpha.*Leave the step out"):
        smooth(net, [x])


def test_masks_of_minus_infinity_do_no_harm() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block(2, False, True, post=False)
            spread(self.block)

        def forward(self, x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
            y = self.block.norm(x)
            q, k, v = (p(y)[:, None] for p in self.block.projections)
            mask = torch.zeros(keep.shape).masked_fill(keep == 0, float("-inf"))[:, None, None]
            scores = q @ k.transpose(-1, -2) / 4.0 + mask
            z: torch.Tensor = self.block.output((scores.softmax(-1) @ v)[:, 0])
            return z

    torch.manual_seed(0)
    x, keep = torch.randn(16, 5, 16), torch.ones(16, 5, dtype=torch.int64)
    keep[:, 3:] = 0
    model = folded(Masked(), x, keep)
    graph, choices = smoothed(model, (x, keep), alpha=0.5)
    assert "block.projections.2:linear" in homes(choices).values()
    for runtime in ("onnxruntime", "openvino"):
        result, _ = quantized(graph, seen(graph, (x, keep)), runtime)
        with torch.no_grad():
            wanted = model(x, keep)
            assert float((result(x, keep) - wanted).norm() / wanted.norm()) < 0.05


def test_tied_and_reused_layers_are_left_alone() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(20, 16)
            self.norm = nn.LayerNorm(16)
            self.twice = nn.Linear(16, 16)
            self.once = nn.Linear(16, 16)
            self.head = nn.Linear(16, 20, bias=False)
            self.head.weight = self.embed.weight
            with torch.no_grad():
                self.norm.weight[:2] *= 50.0

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.norm(self.embed(ids))
            y: torch.Tensor = self.head(self.twice(self.twice(self.once(x))))
            return y

    torch.manual_seed(0)
    ids = torch.randint(0, 20, (32, 4))
    result, choices = smoothed(folded(Tied(), ids), (ids,))
    found = reasons(choices)
    assert found["head:linear"].startswith("its ")
    assert "is shared with another operator, and stays so" in found["head:linear"]
    assert "twice.weight is shared" in found["twice:linear"]
    assert "twice.weight is shared" in found["twice:linear#2"]
    assert found["once:linear"] == "inside norm:layer_norm"
    graph = result.graph_module
    embedding = next(n for n in graph.graph.nodes if operator(n) == "embedding")
    head = [n for n in graph.graph.nodes if operator(n) == "linear"][-1]
    table, last = tensor_of(graph, embedding.args[0]), tensor_of(graph, head.args[1])
    assert table is not None
    assert last is not None
    assert table.data_ptr() == last.data_ptr()


@pytest.mark.parametrize("alpha", ["best", -0.1, 1.5, float("nan"), True])
def test_a_wrong_alpha_is_refused(alpha: float | str) -> None:
    with pytest.raises(InvalidInput, match="0 to 1"):
        SmoothQuant(alpha)


def test_bad_input_is_refused() -> None:
    net = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4))
    x = torch.randn(8, 4)
    model = folded(net, x)
    with pytest.raises(InvalidInput, match="empty"):
        smooth(net, [])
    with pytest.raises(InvalidInput, match="empty"):
        SmoothQuant().choose_from(model, sampled(model, []))
    with pytest.raises(InvalidInput, match=r"0:layer_norm is not finite"):
        smooth(net, [torch.full((2, 4), float("nan"))])
    result, _ = quantized(model, seen(model, (x,)))
    with pytest.raises(InvalidInput, match="quantized already"):
        SmoothQuant().choose_from(result, sampled(model, [(x,)]))
    with pytest.raises(NoEffect, match="no linear layers"):
        smooth(nn.Conv1d(4, 4, 1), [torch.randn(2, 4, 3)])


def test_one_sample_and_constant_channels_are_enough() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4))
    with torch.no_grad():
        net[0].weight[:4] = 0.0  # type: ignore[operator]
        net[0].bias[:4] = -1.0  # type: ignore[operator]
        net[0].weight[4] *= 100.0  # type: ignore[index, operator]
    x = torch.randn(2, 6)
    model = folded(net, x)
    result, choices = smoothed(model, (x[:1],), alpha=0.5)
    assert torch.equal(choices.tensors["smooth:1:relu"][:4], torch.ones(4, dtype=torch.float64))
    with torch.no_grad():
        assert same(model(x), result(x))


class TestContract(RewriteContract):
    def step(self) -> SmoothQuant:
        return SmoothQuant(0.5)

    def candidate(self, tiny: Tiny) -> Candidate:
        return Candidate(once.folded(tiny))

    def tinies(self) -> Iterable[Tiny]:
        return [tiny for tiny in catalogue() if tiny.name in CONTRACT]

    def names_in(self, choices: Choices) -> Iterable[str]:
        groups = choices.plan["groups"]
        names = [n for g in groups for n in (g["value"], *g["linears"], g["into"])]
        return [*filter(None, names), *(row["operator"] for row in choices.plan["coverage"])]


@pytest.mark.slow
class TestContractEverywhere(TestContract):
    def tinies(self) -> Iterable[Tiny]:
        return catalogue()

"""What `Factorize` replaces, tells and refuses."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from burnish.core import Candidate, Choices
from burnish.errors import Infeasible, InvalidInput, NoEffect
from burnish.goal import Call, Goal, Inputs, Task
from burnish.graph import Traced, set_mode, trace
from burnish.prune import (
    Factorize,
    LayerRank,
    factorize,
    factorized_layers,
    prune_weights,
)
from burnish.prune._cost import whole_cost
from burnish.prune._low_rank_layers import layers_of
from burnish.prune._low_rank_spectrum import activation_spectra
from burnish.quantize import fold
from burnish.testing import catalogue
from tests import once

TINY = {tiny.name: tiny for tiny in catalogue()}


class Net(nn.Module):
    """Every way in which code may read a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, stride=2, padding="valid", bias=False)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.same = nn.Conv2d(16, 16, 3, padding="same", dilation=2)
        self.read = nn.Linear(16, 16)
        self.hooked = nn.Linear(16, 16)
        self.twice = nn.Linear(16, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.same(self.depthwise(self.conv(x).relu())).relu().mean((2, 3))
        x = nn.functional.linear(x, self.read.weight, self.read.bias).relu()
        x = self.twice(self.twice(self.hooked(x)).relu())
        logits: torch.Tensor = self.head(x)
        return logits


IMAGES = torch.randn(12, 3, 9, 9, generator=torch.Generator().manual_seed(0))
CALLS = [Call((IMAGES,), {}, None)]


def _net() -> Net:
    torch.manual_seed(0)
    net = Net().eval()
    net.hooked.register_forward_hook(lambda module, args, output: None)
    return net


@pytest.fixture(scope="module")
def traced() -> Traced:
    return trace(_net(), (IMAGES,))


def _rows(choices: Choices) -> dict[str, LayerRank]:
    return {row.layer: row for row in factorized_layers(choices)}


def _num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture(scope="module")
def in_module() -> tuple[Candidate, dict[str, LayerRank]]:
    task = Task(IMAGES, TINY["plain_cnn"].goal().task.metric, calibration=[IMAGES])
    step = Factorize(0.2, of="macs", round_to=2, ignore=("head",))
    candidate = step.apply(Candidate(_net()), Goal(task))
    return candidate, _rows(candidate.history[-1].choices)


def test_every_layer_is_told_of(in_module: tuple[Candidate, dict[str, LayerRank]]) -> None:
    candidate, rows = in_module
    assert candidate.history[-1].choices.plan["form"] == "module"
    reasons = {name: row.reason.split(" (/")[0] for name, row in rows.items()}
    told = "trace the model first to have it factorized in the graph"
    assert reasons == {
        "conv:conv2d": "the share asked for leaves it as it is",
        "depthwise:conv2d": "it has 16 groups",
        "same:conv2d": "",
        "linear": f"its weight, read.weight, is not read by calling a layer of its own; {told}",
        "hooked:linear": f"it has hooks, which would be lost; take them off, or {told}",
        "twice:linear": "its weight is shared: twice:linear, twice:linear#2 read it",
        "twice:linear#2": "its weight is shared: twice:linear, twice:linear#2 read it",
        "head:linear": "ignore names 'head'",
    }
    assert "test_low_rank.py:" in rows["depthwise:conv2d"].reason
    assert {name for name, row in rows.items() if row.state == "factorized"} == {"same:conv2d"}
    assert {name for name, row in rows.items() if row.state == "kept"} == {"conv:conv2d"}
    same = rows["same:conv2d"]
    assert (same.before, same.after % 2) == (16, 0)
    assert 0 < same.error < 1


def test_in_a_module_two_layers_stand_for_one(
    in_module: tuple[Candidate, dict[str, LayerRank]],
) -> None:
    model = in_module[0].model
    assert type(model) is Net
    first, second = (model.get_submodule(f"same.{place}") for place in (0, 1))
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.Conv2d)
    rank = in_module[1]["same:conv2d"].after
    assert (first.in_channels, first.out_channels, first.dilation) == (16, rank, (2, 2))
    assert (second.in_channels, second.out_channels, second.kernel_size) == (rank, 16, (1, 1))
    assert first.bias is None
    assert second.bias is not None
    assert not first.training


def test_the_module_and_the_graph_are_one_under_the_same_names(traced: Traced) -> None:
    """And what is saved is what was asked for, as the cost of the new graph says."""
    parts = ("conv:conv2d", "same:conv2d", "linear", "hooked:linear", "head:linear")
    for of in ("macs", "parameters", "bytes"):
        step = Factorize(0.2, of=of, round_to=1)
        choices = step.choose_from(traced, CALLS)
        assert set(choices.plan["ranks"]) <= set(parts)
        small = step.rewrite(traced, choices)
        assert isinstance(small, Traced)
        saved = 1 - whole_cost(small, of) / whole_cost(traced, of)
        assert saved == pytest.approx(choices.plan["saved"])
        assert 0.2 <= saved < 0.3
        module = step.rewrite(_net(), Choices({**choices.plan, "form": "module"}, choices.tensors))
        if "linear" not in choices.plan["ranks"]:
            assert torch.allclose(small(IMAGES), module(IMAGES), atol=1e-5)
            names = {name.removeprefix("graph_module.model.") for name in small.state_dict()}
            assert names == set(module.state_dict())


def test_the_least_error_is_chosen(traced: Traced) -> None:
    """Of all ranks of the three layers there is a choice for, each tried."""
    step = Factorize(0.35, of="parameters", round_to=2, ignore=("linear", "head"))
    choices = step.choose_from(traced, CALLS)
    layers = [layer for layer in layers_of(traced, step.ignore) if not layer.reason]
    spectra = activation_spectra(traced, layers, CALLS)
    options = []
    for layer in layers:
        bias = 0 if layer.bias is None else layer.outputs
        mine = [(0, 0.0)]
        for rank in range(2, layer.full_rank + 1, 2):
            after = rank * (layer.inputs + layer.outputs) + layer.outputs
            error = spectra[layer.name].error(rank)
            mine.append((layer.inputs * layer.outputs + bias - after, error))
        options.append(mine)
    wanted = 0.35 * _num_parameters(traced)
    tried = itertools.product(*options)
    best = min(sum(e for _, e in one) for one in tried if sum(s for s, _ in one) >= wanted)
    told = sum(row.error for row in factorized_layers(choices))
    assert len(choices.plan["ranks"]) > 1
    assert best <= told + 1e-12 <= 1.001 * best + 1e-9


def _constant(value: float) -> Callable[[str, int | None], float]:
    return lambda layer, rank: 1.0 if rank is None else value


def test_a_cost_that_is_handed_in_decides(traced: Traced) -> None:
    """Milliseconds: one layer is faster at ranks of 4 alone, the others never are."""

    def cost(layer: str, rank: int | None) -> float:
        return 0.5 if (layer, rank) == ("same:conv2d", 4) else 1.0

    step = Factorize(0.1, of="cost", criterion="weight", round_to=2, cost=cost)
    choices = step.choose_from(traced)
    assert choices.plan["ranks"] == {"same:conv2d": 4}
    assert choices.plan["saved"] == 0.1  # of five layers
    told = "as two layers it costs no less at any multiple of 2 (round_to)"
    assert _rows(choices)["head:linear"].reason == told
    with pytest.raises(Infeasible, match=r"each of the 1 that may be factorized 0\.100 is") as no:
        Factorize(0.2, of="cost", criterion="weight", round_to=2, cost=cost).choose_from(traced)
    assert no.value.result == pytest.approx(0.1)
    for bad in (float("nan"), -1.0):
        step = Factorize(0.2, of="cost", criterion="weight", cost=_constant(bad))
        with pytest.raises(InvalidInput, match=r"the cost of conv:conv2d in rank 8 is"):
            step.choose_from(traced)


class Encoded(nn.Module):
    """torch's own encoder, which reads its layers' weights itself where it is fast."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.encoder(x)
        return y


def test_where_code_reads_more_of_a_layer_the_graph_is_taken() -> None:
    x = torch.randn(4, 5, 16)
    task = Task(x, TINY["plain_cnn"].goal().task.metric)
    step = Factorize(0.2, criterion="weight", round_to=1)
    candidate = step.apply(Candidate(Encoded().eval()), Goal(task))
    plan = candidate.history[-1].choices.plan
    assert isinstance(candidate.model, Traced)
    assert "cannot be called: its code reads more of a layer" in plan["form because"]
    assert candidate.model(x).shape == x.shape


@pytest.mark.parametrize("form", ["module", "graph"])
def test_the_result_trains(form: str, traced: Traced) -> None:
    step = Factorize(0.2, criterion="weight", round_to=2)
    choices = step.choose_from(traced)
    model = step.rewrite(traced, choices)
    if form == "module":
        model = step.rewrite(_net(), Choices({**choices.plan, "form": "module"}, choices.tensors))
    elif isinstance(model, Traced):
        model = set_mode(model, True)
    before = {name: value.clone() for name, value in model.named_parameters()}
    assert any(name.endswith("same.1.weight") for name in before)
    model(IMAGES).square().mean().backward()
    torch.optim.SGD(model.parameters(), 1.0).step()
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_factorized_graph_is_factorized_again(traced: Traced) -> None:
    """And one whose batch-norms are folded: its weights are buffers."""
    step = Factorize(0.2, criterion="weight", round_to=2)
    once_more = step.rewrite(traced, step.choose_from(traced))
    assert isinstance(once_more, Traced)
    again = step.choose_from(once_more)
    assert whole_cost(step.rewrite(once_more, again), "macs") < 0.8 * whole_cost(once_more, "macs")  # type: ignore[arg-type]
    folded = fold(once.traced(TINY["plain_cnn"]))
    small = step.rewrite(folded, step.choose_from(folded))
    assert not any(name.endswith("conv.0.weight") for name, _ in small.named_parameters())
    assert small(*TINY["plain_cnn"].inputs(3).args).shape == (3, 5)


def test_a_masked_weight_is_left_alone() -> None:
    plain = trace(nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)), (torch.randn(2, 16),))
    masked = prune_weights(plain, 0.5, ignore=("model.1",))
    assert isinstance(masked, Traced)
    rows = _rows(Factorize(0.1, criterion="weight", round_to=1).choose_from(masked))
    assert rows["0:linear"].reason.startswith("its weight is computed, not stored")
    assert rows["1:linear"].state == "factorized"


def test_the_plain_function_leaves_the_users_model_alone() -> None:
    net = _net()
    before = copy.deepcopy(net.state_dict())
    small = factorize(net, IMAGES, 0.3, calibration=[IMAGES[:6], IMAGES[6:]], round_to=1)
    assert type(small) is Net
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    with torch.no_grad():
        error = (small(IMAGES) - net(IMAGES)).square().mean() / net(IMAGES).var()
        plain = factorize(net, IMAGES, 0.3, criterion="weight", round_to=1)
        worse = (plain(IMAGES) - net(IMAGES)).square().mean() / net(IMAGES).var()
    assert error < worse


class Named(nn.Module):
    """A layer that goes by two names."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(16, 16)
        self.also = self.one

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.one(x)
        return y


def test_a_layer_alone_and_one_under_two_names() -> None:
    alone = factorize(nn.Linear(16, 16), torch.randn(2, 16), criterion="weight", round_to=1)
    assert [type(part) for part in alone.children()] == [nn.Linear, nn.Linear]
    small: Any = factorize(Named(), torch.randn(2, 16), criterion="weight", round_to=1)
    assert isinstance(small.one, nn.Sequential)
    assert small.one is small.also


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "ratio of 1": ({"ratio": 1.0}, "from 0 up to but not including 1"),
    "of": ({"of": "watts"}, "one of parameters, bytes, macs, cost"),
    "criterion": ({"criterion": "beauty"}, "one of activation, weight"),
    "round_to": ({"round_to": 0}, "a number from 1 up"),
    "ignore": ({"ignore": "head"}, "give a tuple"),
    "cost": ({"of": "cost", "cost": 3.0}, "a function of a layer's name and a rank"),
    "cost of MACs": ({"cost": lambda layer, rank: 1.0}, "asked with of='cost' alone"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_out_of_range_are_refused(name: str) -> None:
    settings, message = REFUSED[name]
    with pytest.raises(InvalidInput, match=message):
        Factorize(**settings)


def test_data_and_costs_are_there_where_they_are_needed_alone(traced: Traced) -> None:
    task = Task(Inputs(IMAGES), TINY["plain_cnn"].goal().task.metric)
    with pytest.raises(InvalidInput, match="needs calibration data"):
        Factorize().choose(_net(), Goal(task))
    with pytest.raises(InvalidInput, match="there is no batch: give some, or"):
        Factorize().choose_from(traced)
    with pytest.raises(InvalidInput, match="looks at no data"):
        Factorize(criterion="weight").choose_from(traced, CALLS)
    with pytest.raises(InvalidInput, match="needs cost="):
        Factorize(of="cost", criterion="weight").choose_from(traced)


def test_what_cannot_be_is_told(traced: Traced) -> None:
    with pytest.raises(NoEffect, match="ratio=0 of the macs removes nothing"):
        Factorize(0.0, criterion="weight").choose_from(traced)
    with pytest.raises(NoEffect, match=r"conv:conv2d: its matrix, 16 x 27, has no rank of 32"):
        Factorize(criterion="weight", round_to=32).choose_from(traced)
    with pytest.raises(NoEffect, match=r"head:linear: as two layers it has no fewer macs"):
        Factorize(criterion="weight", ignore=("conv", "same", "linear", "hooked")).choose_from(
            traced
        )
    with pytest.raises(Infeasible, match="depthwise:conv2d: it has 16 groups") as refused:
        Factorize(0.99, criterion="weight").choose_from(traced)
    assert isinstance(refused.value.result, float)
    assert 0 < refused.value.result < 0.99
    with pytest.raises(InvalidInput, match="'body' matches nothing"):
        Factorize(criterion="weight", ignore=("body",)).choose_from(traced)
    with pytest.raises(InvalidInput, match=r"DataParallel: give the model itself, \.module"):
        factorize(nn.DataParallel(_net()), IMAGES, criterion="weight")


def test_a_plan_of_another_model_is_refused(traced: Traced) -> None:
    step = Factorize(criterion="weight", round_to=2)
    choices = step.choose_from(traced)
    in_module = Choices({**choices.plan, "form": "module"}, choices.tensors)
    other = _net()
    other.same = nn.Conv2d(16, 16, 5, padding=2)
    strangers = [(nn.Sequential(nn.ReLU()), "does not have"), (other, "belongs to another model")]
    for stranger, message in strangers:
        with pytest.raises(InvalidInput, match=message):
            step.rewrite(stranger, in_module)
    with pytest.raises(InvalidInput, match="does not have"):
        step.rewrite(once.traced(TINY["plain_cnn"]), choices)

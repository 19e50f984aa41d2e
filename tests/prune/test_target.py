"""Width and depth chosen under one limit: the program against all choices, its tables, the step."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from burnish.core import Choices
from burnish.errors import Infeasible, InvalidInput, NoEffect
from burnish.goal import Call
from burnish.graph import Traced, channel_groups, mask_channels, trace
from burnish.prune import PruneTo, dropped_blocks, prune_to, pruned_layers, residual_blocks
from burnish.prune._cost import COSTS, cost_of
from burnish.prune._program import Priced, solve
from burnish.prune._survey import levels_of
from burnish.prune._terms import priced
from burnish.testing import RewriteContract, Tiny, catalogue
from tests import once


class Block(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.grow, self.shrink = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.shrink(F.relu(self.grow(x))))


class Net(nn.Module):
    """Two blocks in a stream of 8, and a concatenation behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(Block(8, 12), Block(8, 16))
        self.beside = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(14, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(F.relu(self.stem(x)))
        out: torch.Tensor = self.head(torch.cat([x, self.beside(x)], 1).mean((2, 3)))
        return out


IMAGES = torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(0))
CALLS = [Call((IMAGES,), {}, None)]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def traced(net: nn.Module) -> Traced:
    return trace(net, (IMAGES,))


@pytest.fixture(scope="module")
def quiet(net: nn.Module) -> Traced:
    """Its second block adds next to nothing."""
    copied: Any = Net().eval()
    copied.load_state_dict(net.state_dict())
    with torch.no_grad():
        for parameter in copied.blocks[1].shrink.parameters():
            parameter.mul_(1e-3)
    return trace(copied, (IMAGES,))


@pytest.mark.parametrize("seed", range(4))
def test_the_program_finds_the_best_of_all_choices(seed: int) -> None:
    draw = np.random.default_rng(seed)
    sizes = {"a": 3, "b": 4, "c": 2}
    units = {name: [0.0, *np.sort(draw.random(size - 1))] for name, size in sizes.items()}
    drops = {"p": float(draw.random()), "q": float(draw.random())}
    forms = [((), None), ((), "p"), (("a",), None), (("b",), "q"), (("c",), "p")]
    forms += [(("a", "b"), "p"), (("b", "c"), None), (("a", "c"), "q"), (("a", "b"), None)]
    terms = [
        Priced(names, draw.random([sizes[name] for name in names]), block) for names, block in forms
    ]

    def sums(levels: dict[str, int], gone: tuple[str, ...]) -> tuple[float, float]:
        cost = sum(
            float(t.table[tuple(levels[n] for n in t.units)]) for t in terms if t.block not in gone
        )
        error = sum(units[n][level] for n, level in levels.items()) + sum(drops[n] for n in gone)
        return cost, error

    every = [
        sums(dict(zip(sizes, levels, strict=True)), gone)
        for levels in itertools.product(*map(range, sizes.values()))
        for gone in ((), ("p",), ("q",), ("p", "q"))
    ]
    costs = sorted(cost for cost, _ in every)
    for limit in (costs[len(costs) // 4], costs[len(costs) // 2]):
        best = min(error for cost, error in every if cost <= limit)
        found = solve(units, drops, terms, limit)
        assert found.cost <= limit * (1 + 1e-9)
        assert found.error == pytest.approx(best, rel=2e-3)
        assert (found.cost, found.error) == pytest.approx(sums(dict(found.levels), found.dropped))
    with pytest.raises(Infeasible) as caught:
        solve(units, drops, terms, costs[0] * 0.99)
    least: Any = caught.value.result
    assert least.cost == pytest.approx(costs[0])


@pytest.mark.parametrize("of", COSTS)
def test_tables_sum_up_to_the_cost(traced: Traced, of: str) -> None:
    channels = channel_groups(traced)
    cost = cost_of(channels, of)
    kept = {group.name: levels_of(group.num_channels, 1) for group in channels.free}
    blocks = residual_blocks(traced)
    terms = priced(channels, cost, kept, blocks)
    draw = np.random.default_rng(0)
    for gone in ((), blocks[:1], blocks):
        levels = {name: int(draw.integers(len(widths))) for name, widths in kept.items()}
        removed = {name: list(range(kept[name][0] - kept[name][i])) for name, i in levels.items()}
        without = {node for block in gone for node in block.nodes}
        total = sum(
            float(term.table[tuple(levels[name] for name in term.units)])
            for term in terms
            if term.block not in {block.name for block in gone}
        )
        assert total == pytest.approx(cost.at(channels.alive(removed), without))


def test_widths_are_multiples_and_fall() -> None:
    assert levels_of(64, 1) == (64, 56, 48, 40, 32, 24, 16, 8)
    assert levels_of(64, 16) == (64, 48, 32, 16)
    assert levels_of(30, 8) == (30, 24, 16, 8)
    assert levels_of(3, 1) == (3, 2, 1)
    assert levels_of(6, 8) == (6,)


@pytest.mark.parametrize("of", COSTS)
def test_what_is_saved_is_what_was_asked_for(traced: Traced, of: str) -> None:
    step = PruneTo(0.4, of=of)
    choices = step.solved(step.measured(traced, CALLS, seed=0))
    small = step.rewrite(traced, choices)
    assert isinstance(small, Traced)

    def cost(graph: Traced) -> float:
        channels = channel_groups(graph)
        return cost_of(channels, of).at(channels.alive({}))

    assert 1 - cost(small) / cost(traced) == pytest.approx(choices.plan["saved"])
    assert 0.4 <= choices.plan["saved"] < 0.55


def test_channels_go_exactly_and_blocks_besides(quiet: Traced) -> None:
    """What remains is the masked model without the blocks that were dropped."""
    step = PruneTo(0.6, criterion="l2")
    choices = step.solved(step.measured(quiet, CALLS))
    assert choices.plan["dropped"] == ["blocks.1:add"]
    assert choices.plan["removed"]
    silent = quiet.copy()
    with torch.no_grad():
        for leaf in ("weight", "bias"):
            silent.graph_module.get_parameter(f"model.blocks.1.shrink.{leaf}").zero_()
    masked = mask_channels(channel_groups(silent), choices.plan["removed"])
    torch.testing.assert_close(step.rewrite(quiet, choices)(IMAGES), masked(IMAGES))


def test_the_cheaper_error_is_taken(quiet: Traced) -> None:
    """A block that adds next to nothing goes whole; without depth it may not."""
    deep = PruneTo(0.6, criterion="l1")
    choices = deep.solved(deep.measured(quiet, CALLS))
    assert choices.plan["dropped"] == ["blocks.1:add"]
    assert {row.block: row.state for row in dropped_blocks(choices)}["blocks.0:add"] == "kept"
    table = {row.layer: row for row in pruned_layers(choices)}
    assert table["blocks.1.grow:conv2d"].state == "dropped"
    flat = PruneTo(0.4, depth=False)
    assert flat.solved(flat.measured(quiet, CALLS)).plan["dropped"] == []


def test_a_cost_may_be_handed_in(traced: Traced) -> None:
    """Tables of one's own: here only the second block costs anything."""
    step = PruneTo(0.5, of="milliseconds")
    found = step.measured(traced, CALLS)
    terms = [Priced((), np.array(1.0)), Priced((), np.array(3.0), "blocks.1:add")]
    choices = step.solved(found, terms)
    assert choices.plan["dropped"] == ["blocks.1:add"]
    assert choices.plan["removed"] == {}
    assert choices.plan["saved"] == pytest.approx(0.75)
    with pytest.raises(Infeasible) as caught:
        replace(step, ratio=0.875).solved(found, terms)
    assert caught.value.result == pytest.approx(0.75)


def test_the_function_gives_the_class(net: nn.Module) -> None:
    small = prune_to(net, IMAGES, 0.5, calibration=[IMAGES], criterion="l1")
    assert type(small) is Net
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in net.parameters())


def test_what_is_refused(net: nn.Module, traced: Traced) -> None:
    for settings, message in (
        ({"ratio": 0}, "ratio=0"),
        ({"ratio": 1.0}, "ratio=1.0"),
        ({"of": "seconds"}, "of='seconds'"),
        ({"criterion": "best"}, "criterion='best'"),
        ({"heads": "some"}, "heads='some'"),
        ({"round_to": 0}, "round_to=0"),
        ({"ignore": "stem"}, "give a tuple"),
    ):
        with pytest.raises(InvalidInput, match=message):
            PruneTo(**settings)
    with pytest.raises(InvalidInput, match="nosuch"):
        PruneTo(ignore=("nosuch",)).measured(traced, CALLS)
    with pytest.raises(InvalidInput, match="no batch"):
        PruneTo(criterion="l1").measured(traced, [])
    with pytest.raises(NoEffect, match="ignore names"):
        PruneTo(ignore=("*",)).measured(traced, CALLS)
    with pytest.raises(Infeasible, match="is saved") as caught:
        prune_to(net, IMAGES, 0.999, calibration=[IMAGES], criterion="l1")
    share: Any = caught.value.result
    assert 0.8 < share < 0.999
    goal = {tiny.name: tiny for tiny in catalogue()}["residual"].goal()
    with pytest.raises(InvalidInput, match="prune_to_latency"):
        PruneTo(of="milliseconds").choose(net, goal)
    with pytest.raises(InvalidInput, match="prune_to_latency"):
        prune_to(net, IMAGES, of="milliseconds", calibration=[IMAGES])
    step = PruneTo(of="milliseconds", criterion="l1")
    found = step.measured(traced, CALLS)
    with pytest.raises(InvalidInput, match="prune_to_latency"):
        step.solved(found)


class TestContract(RewriteContract):
    def step(self) -> PruneTo:
        return PruneTo(0.4)

    def names_in(self, choices: Choices) -> Iterable[str]:
        return [row["layer"] for row in choices.plan["layers"]]

    def tinies(self) -> Iterable[Tiny]:
        return [tiny for tiny in catalogue() if tiny.name == "residual"]


@pytest.mark.slow
class TestMore(TestContract):
    def tinies(self) -> Iterable[Tiny]:
        return [tiny for tiny in catalogue() if tiny.name in ("encoder", "concat")]


def test_a_transformer_loses_heads_and_features() -> None:
    encoder = once.traced({tiny.name: tiny for tiny in catalogue()}["encoder"])
    step = PruneTo(0.4, criterion="l2", depth=False)
    tiny = {tiny.name: tiny for tiny in catalogue()}["encoder"]
    choices = step.choose(encoder, tiny.goal())
    assert 0.4 <= choices.plan["saved"] < 0.6

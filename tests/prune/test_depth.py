"""Residual blocks found and dropped: what is left is the model in which they add nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from burnish.core import Choices
from burnish.errors import Infeasible, InvalidInput, NoEffect
from burnish.goal import Call, Inputs
from burnish.graph import Traced, trace
from burnish.prune import DropBlocks, drop_blocks, dropped_blocks, residual_blocks
from burnish.testing import RewriteContract, Tiny, catalogue
from tests import once

WITH_BLOCKS = ("residual", "attention_split")


class Basic(nn.Module):
    """A ResNet's block; the second half of its channels may be a strided, padded shortcut."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.stride, self.added = (1, 0) if before == after else (2, after - before)
        self.conv1 = nn.Conv2d(before, after, 3, self.stride, 1)
        self.norm = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv2(F.relu(self.norm(self.conv1(x))))
        if self.added:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.added))
        return F.relu(out + x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        widths = [(4, 4), (4, 4), (4, 6), (6, 6)]
        self.blocks = nn.Sequential(*(Basic(before, after) for before, after in widths))
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.blocks(F.relu(self.stem(x))).mean((2, 3)))
        return out


IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
CALLS = [Call((IMAGES,), {}, None)]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def traced(net: nn.Module) -> Traced:
    return trace(net, (IMAGES,))


def _silent(model: nn.Module, index: int) -> Any:
    """The net in which a block's branch gives zero."""
    again: Any = Net().eval()
    again.load_state_dict(model.state_dict())
    nn.init.zeros_(again.blocks[index].conv2.weight)
    nn.init.zeros_(again.blocks[index].conv2.bias)
    return again


def test_blocks_are_found_with_what_they_are_made_of(traced: Traced) -> None:
    blocks = residual_blocks(traced)
    assert [block.name for block in blocks] == [f"blocks.{index}:add" for index in range(4)]
    assert blocks[0].layers == ("blocks.0.conv1:conv2d", "blocks.0.conv2:conv2d")
    assert len(blocks[0].nodes) == 6  # two convolutions, a norm, two relus, the sum


def test_a_transformer_that_normalises_after_the_sum_loses_its_norm_with_the_block() -> None:
    class After(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.LayerNorm(8), nn.LayerNorm(8)
            self.feed, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            out: torch.Tensor = self.head(self.second(x + self.feed(x)))
            return out

    model = After().eval()
    nn.init.normal_(model.second.weight)
    x = torch.randn(4, 8)
    small = drop_blocks(model, x, 0.5, calibration=[x])
    assert torch.equal(small(x), model.head(model.first(x)))


def test_no_block_where_nothing_passes_by() -> None:
    tinies = {tiny.name: tiny for tiny in catalogue()}
    for name in ("concat", "plain_cnn"):
        assert residual_blocks(once.traced(tinies[name])) == ()


def test_a_sum_that_is_read_elsewhere_or_has_a_learnt_shortcut_is_no_block() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            inside = self.a(x)
            x = x + inside
            return self.b(x) + self.c(x), inside

    assert residual_blocks(trace(Odd().eval(), (torch.randn(2, 4),))) == ()


@pytest.mark.parametrize("index", range(4))
def test_without_a_block_is_with_a_silent_one(net: nn.Module, traced: Traced, index: int) -> None:
    step = DropBlocks(0.2, ignore=tuple(f"blocks.{i}" for i in range(4) if i != index))
    choices = step.choose_from(traced, CALLS)
    assert choices.plan["dropped"] == [f"blocks.{index}:add"]
    small = step.rewrite(traced, choices)
    torch.testing.assert_close(small(IMAGES), _silent(net, index)(IMAGES))


def test_the_class_stays_where_the_block_is_a_module(net: nn.Module) -> None:
    small: Any = drop_blocks(net, IMAGES, 0.5, calibration=[IMAGES], ignore=("blocks.2",))
    assert type(small) is Net
    assert sum(isinstance(block, nn.Identity) for block in small.blocks) == 2
    assert not [name for name, module in small.named_modules() if module.training]
    assert small(IMAGES).shape == (8, 3)


def test_a_block_whose_shortcut_shrinks_the_image_gives_a_graph(
    net: nn.Module, traced: Traced
) -> None:
    ignore = ("blocks.0", "blocks.1", "blocks.3")
    small = drop_blocks(net, IMAGES, 0.2, calibration=[IMAGES], ignore=ignore)
    assert isinstance(small, Traced)
    torch.testing.assert_close(small(IMAGES), _silent(net, 2)(IMAGES))


def test_blocks_in_a_row_go_together(traced: Traced) -> None:
    step = DropBlocks(0.99, of="blocks")
    choices = step.choose_from(traced, CALLS)
    assert len(choices.plan["dropped"]) == 4
    small = step.rewrite(traced, choices)
    assert isinstance(small, Traced)
    assert residual_blocks(small) == ()
    assert small(IMAGES).shape == (8, 3)


def test_the_one_that_is_missed_least_goes_first(net: nn.Module) -> None:
    quiet = _silent(net, 3)
    for parameter in quiet.blocks[3].conv2.parameters():
        nn.init.normal_(parameter, std=1e-4)
    traced = trace(quiet, (IMAGES,))
    choices = DropBlocks(0.25).choose_from(traced, CALLS)
    assert choices.plan["dropped"] == ["blocks.3:add"]
    table = {row.block: row for row in dropped_blocks(choices)}
    errors = [row.error for row in table.values() if row.error is not None]
    assert len(errors) == 4
    assert table["blocks.3:add"].error == min(errors)
    assert table["blocks.3:add"].state == "dropped"
    assert table["blocks.0:add"].state == "kept"


def test_a_share_of_the_costs(traced: Traced) -> None:
    """MACs: what is saved is counted by hand; blocks 0 and 1 cost 2 * 4 * 4 * 9 * 64 each."""
    choices = DropBlocks(0.3, of="macs", ignore=("blocks.2", "blocks.3")).choose_from(traced, CALLS)
    block = 2 * 4 * 4 * 9 * 64
    third, last = (4 * 6 + 6 * 6) * 9 * 16, 2 * 6 * 6 * 9 * 16
    whole = 3 * 4 * 9 * 64 + 2 * block + third + last + 18
    assert choices.plan["saved"] == pytest.approx(len(choices.plan["dropped"]) * block / whole)
    with pytest.raises(Infeasible, match="all 2 residual blocks") as caught:
        DropBlocks(0.9, of="macs", ignore=("blocks.2", "blocks.3")).choose_from(traced, CALLS)
    assert caught.value.result == pytest.approx(2 * block / whole)


def test_random_is_seeded_and_needs_no_data(traced: Traced) -> None:
    step = DropBlocks(0.5, criterion="random")
    plans = [step.choose_from(traced, seed=seed).plan["dropped"] for seed in (0, 0, 1, 2, 3)]
    assert plans[0] == plans[1]
    assert len({tuple(plan) for plan in plans}) > 1
    assert all(row.error is None for row in dropped_blocks(step.choose_from(traced)))


def test_what_is_refused(net: nn.Module, traced: Traced) -> None:
    for settings, message in (
        ({"ratio": 1.0}, "ratio=1.0"),
        ({"ratio": -0.1}, "ratio=-0.1"),
        ({"of": "layers"}, "of='layers'"),
        ({"criterion": "l2"}, "criterion='l2'"),
        ({"ignore": "blocks.0"}, "give a tuple"),
    ):
        with pytest.raises(InvalidInput, match=message):
            DropBlocks(**settings)
    with pytest.raises(InvalidInput, match="calibration"):
        DropBlocks().choose_from(traced)
    with pytest.raises(InvalidInput, match="nosuch"):
        DropBlocks(ignore=("nosuch",)).choose_from(traced, CALLS)
    with pytest.raises(NoEffect, match="ratio=0"):
        DropBlocks(0).choose_from(traced, CALLS)
    with pytest.raises(NoEffect, match="ignore names 'blocks"):
        DropBlocks(ignore=("blocks.*",)).choose_from(traced, CALLS)
    with pytest.raises(NoEffect, match="it has none"):
        drop_blocks(nn.Linear(3, 3).eval(), torch.randn(2, 3), calibration=[torch.randn(2, 3)])
    plan = dict(DropBlocks(0.2).choose_from(traced, CALLS).plan) | {"dropped": ["elsewhere:add"]}
    with pytest.raises(InvalidInput, match="'elsewhere:add'"):
        DropBlocks(0.2).rewrite(traced, Choices(plan))
    with pytest.raises(InvalidInput, match="DataParallel"):
        drop_blocks(nn.DataParallel(net), IMAGES, calibration=[IMAGES])


class TestContract(RewriteContract):
    def step(self) -> DropBlocks:
        return DropBlocks(0.4)

    def names_in(self, choices: Choices) -> Iterable[str]:
        return [row["block"] for row in choices.plan["blocks"]]

    def tinies(self) -> Iterable[Tiny]:
        return [tiny for tiny in catalogue() if tiny.name in WITH_BLOCKS]


def test_the_inputs_of_a_call_may_say_more(net: nn.Module) -> None:
    small = drop_blocks(net, Inputs(IMAGES), 0.2, criterion="random", seed=1)
    assert small(IMAGES[:3]).shape == (3, 3)

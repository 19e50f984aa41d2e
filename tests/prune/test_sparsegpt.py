"""SparseGPT on one weight against brute force in float64; what it must achieve over a network."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from burnish.errors import InvalidInput, Unsupported
from burnish.goal import Call
from burnish.graph import Traced, trace
from burnish.prune import (
    PruneWeights,
    is_masked,
    masked_weights,
    masks_of,
    prune_weights,
    remove_masks,
)
from burnish.prune._pattern import Pattern, parse
from burnish.prune._sparsegpt import BLOCK, DAMPING, prune_sparsegpt
from burnish.testing import catalogue

TINY = {tiny.name: tiny for tiny in catalogue()}


def rows(count: int, width: int, seed: int = 0) -> torch.Tensor:
    """Rows that vary along few directions, as activations do."""
    mix = torch.randn(width // 3 + 1, width, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, len(mix), generator=generator) @ mix
    return (values + 0.3 * torch.randn(count, width, generator=generator)).double()


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).double()


def moment(x: torch.Tensor) -> torch.Tensor:
    return (x.T @ x).unsqueeze(0)


def surgeon(weight: torch.Tensor, x: torch.Tensor, pattern: Pattern, sparsity: float) -> tuple:
    """Column after column by the inverse of the matrix of what is left, computed anew each time.

    With fewer columns than a block: what goes is chosen at the first column, or every M columns.
    """
    left, num_out, width = weight.clone(), *weight.shape
    h = x.T @ x
    h += DAMPING * h.diagonal().mean() * torch.eye(width)
    inverses = [h[j:, j:].inverse() for j in range(width)]
    kept = torch.ones(num_out, width, dtype=torch.bool)

    def cost(j: int) -> torch.Tensor:
        cost: torch.Tensor = left[:, j] ** 2 / inverses[j][0, 0]
        return cost

    for j in range(width):
        if pattern.of and j % pattern.of == 0:
            costs = torch.stack([cost(k) for k in range(j, j + pattern.of)], 1)
            for row in range(num_out):
                going = costs[row].argsort()[: pattern.of - pattern.keep]
                kept[row, j + going] = False
        elif not pattern.of and j == 0:
            costs = torch.stack([cost(k) for k in range(width)], 1)
            blocks = costs.reshape(num_out // pattern.rows, pattern.rows, -1, pattern.columns)
            flat = blocks.sum((1, 3)).flatten()
            stays = torch.ones_like(flat, dtype=torch.bool)
            stays[flat.argsort()[: round(sparsity * len(flat))]] = False
            stays = stays.reshape(num_out // pattern.rows, 1, -1, 1)
            kept = stays.expand(blocks.shape).reshape(num_out, width).clone()
        for row in range(num_out):
            if not kept[row, j]:
                left[row, j:] -= left[row, j] / inverses[j][0, 0] * inverses[j][0]
                left[row, j] = 0
    return kept, left


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "1:2", "2x3", "4x1"])
def test_it_is_the_surgeon_among_the_columns_left(pattern: str) -> None:
    x, weight = rows(60, 12), drawn(4, 12)
    shape = parse(pattern)
    kept, left = prune_sparsegpt(weight, moment(x), shape, 0.5)
    expected_kept, expected = surgeon(weight, x, shape, 0.5)
    assert torch.equal(kept, expected_kept)
    torch.testing.assert_close(left, expected)


def test_columns_behind_a_block_make_good_what_it_lost() -> None:
    """More columns than `BLOCK`: the same as one column after another with that mask."""
    width = BLOCK + 24
    x, weight = rows(400, width), drawn(3, width)
    kept, left = prune_sparsegpt(weight, moment(x), parse("unstructured"), 0.6)
    assert int((~kept[:, :BLOCK]).sum()) == round(0.6 * 3 * BLOCK)
    assert int((~kept).sum()) == round(0.6 * 3 * width)
    h = x.T @ x
    h += DAMPING * h.diagonal().mean() * torch.eye(width)
    expected = weight.clone()
    for j in range(width):
        inverse = h[j:, j:].inverse()
        off = torch.where(kept[:, j], 0.0, expected[:, j]) / inverse[0, 0]
        expected[:, j:] -= off[:, None] * inverse[0]
        expected[:, j] *= kept[:, j]
    torch.testing.assert_close(left, expected)


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "4x1"])
def test_outputs_err_less_than_by_magnitude(pattern: str) -> None:
    x, weight = rows(300, 48), drawn(16, 48)
    shape = parse(pattern)
    _, left = prune_sparsegpt(weight, moment(x), shape, 0.5)
    net = nn.Linear(48, 16, bias=False).double()
    net.weight.data.copy_(weight)
    by_magnitude = remove_masks(
        prune_weights(net, 0.5 if shape.share is None else None, pattern=pattern)
    ).get_parameter("weight")
    unseen = rows(200, 48, seed=7)
    ours = (unseen @ (left - weight).T).square().sum()
    theirs = (unseen @ (by_magnitude.detach() - weight).T).square().sum()
    assert ours < 0.5 * theirs


def test_groups_have_moments_of_their_own_and_one_order() -> None:
    """Two groups of a convolution are two layers, but that the cheapest of both go together."""
    x = torch.stack([rows(80, 9), 10 * rows(80, 9, seed=3)])
    weight = drawn(4, 1, 3, 3)
    kept, left = prune_sparsegpt(weight, x.mT @ x, parse("unstructured"), 0.5)
    assert int((~kept).sum()) == 18
    assert (~kept[:2]).sum() > (~kept[2:]).sum()
    for group in range(2):
        rows_of = slice(2 * group, 2 * group + 2)
        own = weight[rows_of].flatten(1)
        h = x[group].T @ x[group]
        h += DAMPING * h.diagonal().mean() * torch.eye(9)
        for j in range(9):
            inverse = h[j:, j:].inverse()
            stays = kept[rows_of].flatten(1)[:, j]
            own = own.clone()
            own[:, j:] -= (torch.where(stays, 0.0, own[:, j]) / inverse[0, 0])[:, None] * inverse[0]
            own[:, j] *= stays
        torch.testing.assert_close(left[rows_of].flatten(1), own)


def test_what_is_gone_stays_gone_and_counts() -> None:
    x, weight = rows(60, 12), drawn(4, 12)
    gone = torch.zeros(4, 12, dtype=torch.bool)
    gone[:, ::4] = True
    kept, left = prune_sparsegpt(weight * ~gone, moment(x), parse("unstructured"), 0.5, ~gone)
    assert int((~kept).sum()) == 24
    assert not (kept & gone).any()
    assert torch.equal(left == 0, ~kept)


class Net(nn.Module):
    """Convolutions with and without groups, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(4, 8, 3, padding=1, stride=2)
        self.b = nn.Conv2d(8, 8, 3, groups=4)
        self.c, self.d = nn.Linear(8 * 4, 12), nn.Linear(12, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.b(self.a(x).relu()).relu().flatten(1)
        out: torch.Tensor = self.d(self.c(x).relu())
        return out


WEIGHTS = ("a.weight", "b.weight", "c.weight", "d.weight")


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    mixed = torch.randn(32, 4, 3, 3, generator=generator)
    return nn.functional.interpolate(mixed, (8, 8), mode="bilinear")


def _sparsegpt(images: torch.Tensor) -> dict[str, Any]:
    return {"criterion": "sparsegpt", "calibration": [images]}


def test_a_layer_is_pruned_for_what_the_pruned_ones_before_it_give(
    net: Net, images: torch.Tensor
) -> None:
    before = copy.deepcopy(net.state_dict())
    masked = prune_weights(net, 0.5, criterion="sparsegpt", calibration=[images[:20], images[20:]])
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    plain = remove_masks(masked)
    assert isinstance(plain, Net)
    reading = {}
    with torch.no_grad():
        patches = nn.functional.unfold(images, 3, padding=1, stride=2).mT.reshape(-1, 36)
        reading["a.weight"] = patches.unsqueeze(0)
        hidden = plain.a(images).relu()
        patches = nn.functional.unfold(hidden, 3).mT.reshape(-1, 4, 18)
        reading["b.weight"] = patches.transpose(0, 1)
        hidden = plain.b(hidden).relu().flatten(1)
        reading["c.weight"] = hidden.unsqueeze(0)
        reading["d.weight"] = plain.c(hidden).relu().unsqueeze(0)
    masks = masks_of(masked)
    for name in WEIGHTS:
        x = reading[name].double()
        kept, left = prune_sparsegpt(net.get_parameter(name), x.mT @ x, parse("unstructured"), 0.5)
        assert torch.equal(kept, masks[name].bool())
        torch.testing.assert_close(plain.get_parameter(name), left, rtol=1e-4, atol=1e-5)


def test_outputs_of_a_network_err_less_than_by_magnitude(net: Net, images: torch.Tensor) -> None:
    with torch.no_grad():
        wanted = net(images)
        ours, theirs = (
            prune_weights(net, 0.5, **settings)(images) - wanted
            for settings in (_sparsegpt(images), {})
        )
    assert ours.square().sum() < 0.5 * theirs.square().sum()


@pytest.mark.parametrize("pattern", ["2:4", "4x2"])
def test_patterns_hold_in_convolutions(net: Net, images: torch.Tensor, pattern: str) -> None:
    """N:M between channels at one place of the window; blocks in the flattened inputs."""
    step = PruneWeights(None if ":" in pattern else 0.5, pattern, "sparsegpt")
    choices = step.choose_from(net, [Call((images,), {}, None)])
    told = {row.weight: row for row in masked_weights(choices)}
    if pattern == "2:4":
        assert told["b.weight"].reason == "its 2 inputs are no multiple of 4"
    for name in choices.plan["masked"]:
        mask = choices.tensors[name]
        assert torch.equal(choices.tensors[f"{name}_orig"] == 0, ~mask)
        assert told[name].sparsity == 0.5
        if pattern == "2:4":
            groups = mask.movedim(1, -1).reshape(-1, 4)
            assert (groups.sum(1) == 2).all()
        else:
            blocks = mask.reshape(len(mask) // 4, 4, -1, 2)
            assert torch.equal(blocks, blocks[:, :1, :, :1].expand_as(blocks))


def test_a_graph_is_pruned_as_its_module_is_and_again_on_top(
    net: Net, images: torch.Tensor
) -> None:
    traced = trace(net, (images,))
    settings = _sparsegpt(images)
    graph, module = (prune_weights(model, 0.5, **settings) for model in (traced, net))
    assert isinstance(graph, Traced)
    torch.testing.assert_close(graph(images), module(images))
    for model in (graph, module):
        twice = prune_weights(model, 0.75, **settings)
        once = masks_of(model)
        for name, mask in masks_of(twice).items():
            assert float(mask.mean()) == 0.25
            assert not (mask > once[name]).any()
        plain = remove_masks(twice)
        assert not is_masked(plain)
        torch.testing.assert_close(plain(images), twice(images))


def test_shared_weights_and_silent_inputs_go_by_magnitude() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(10, 8)
            self.dead, self.head = nn.Linear(8, 8), nn.Linear(8, 10, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.table(ids)
            out: torch.Tensor = self.head(x + self.dead(0 * x))
            return out

    torch.manual_seed(0)
    model, ids = Tied().eval(), torch.randint(0, 10, (6, 4))
    choices = PruneWeights(0.5, criterion="sparsegpt").choose_from(model, [Call((ids,), {}, None)])
    told = {row.weight: row.note for row in masked_weights(choices)}
    assert told["head.weight"] == "by magnitude, not updated: several operators read it"
    assert told["dead.weight"] == "by magnitude, not updated: it read nothing but zeros"
    assert choices.plan["updated"] == []
    expected = PruneWeights(0.5).choose_from(model).tensors
    assert all(torch.equal(mask, expected[name]) for name, mask in choices.tensors.items())


def test_heads_of_attention_are_read_in_the_graph() -> None:
    tiny = TINY["encoder"]
    inputs = tiny.inputs(8, seed=1)
    traced = tiny.trace()
    masked = prune_weights(traced, 0.5, criterion="sparsegpt", calibration=[inputs])
    assert all(abs(float(m.mean()) - 0.5) < 0.01 for m in masks_of(masked).values())


def test_bad_input(net: Net, images: torch.Tensor) -> None:
    step = PruneWeights(0.5, criterion="sparsegpt")
    with pytest.raises(InvalidInput, match="needs data, and there is none"):
        step.choose_from(net, [])
    with pytest.raises(InvalidInput, match=r"into the layer of 'a\.weight' is not finite"):
        step.choose_from(net, [Call((images / 0,), {}, None)])
    with pytest.raises(InvalidInput, match="scope='global', criterion='sparsegpt'"):
        PruneWeights(0.5, criterion="sparsegpt", scope="global")
    with pytest.raises(InvalidInput, match="biases=True, criterion='sparsegpt'"):
        PruneWeights(0.5, criterion="sparsegpt", biases=True)
    spare = copy.deepcopy(net)
    spare.spare = nn.Linear(2, 2)
    with pytest.raises(InvalidInput, match=r"does not call the layer of 'spare\.weight'"):
        step.choose_from(spare, [Call((images,), {}, None)])

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.layer(x if float(x.sum()) > 0 else -x)
            return out

    with pytest.raises(Unsupported):
        step.choose_from(Branches(), [Call((torch.randn(3, 4),), {}, None)])

"""Masks: the same as torch's where torch has them, patterns, criteria, what is refused."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as reference

from burnish.core import Candidate, Choices
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
from burnish.prune._weight_layers import input_norms
from burnish.testing import RewriteContract, Tiny, catalogue
from tests import once

TINY = {tiny.name: tiny for tiny in catalogue()}
FEW = ("residual", "grouped", "encoder", "tied_weights", "shared_module", "dict_output")


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(32, 6)
    ).eval()


IMAGES = torch.randn(4, 4, 4, 4)
LAYERS = ("0", "2", "4")


class Contract(RewriteContract):
    def names_in(self, choices: Choices) -> Iterable[str]:
        weights = [row["weight"] for row in choices.plan["weights"]]
        return [name.rpartition(".")[0].removeprefix("model.") for name in weights]

    def tinies(self) -> Iterable[Tiny]:
        return [TINY[name] for name in FEW]


class TestFromModule(Contract):
    def step(self) -> PruneWeights:
        return PruneWeights(0.5)


class TestFromTraced(Contract):
    def step(self) -> PruneWeights:
        return PruneWeights(0.5, criterion="wanda", scope="global")

    def candidate(self, tiny: Tiny) -> Candidate:
        return Candidate(once.traced(tiny))


class TestUpdatedWeights(TestFromTraced):
    """New values travel with the masks."""

    def step(self) -> PruneWeights:
        return PruneWeights(0.5, criterion="sparsegpt")

    def tinies(self) -> Iterable[Tiny]:
        return [TINY["grouped"]]


class TestTrainedWeights(TestUpdatedWeights):
    def step(self) -> PruneWeights:
        return PruneWeights(0.5, criterion="movement")


def test_l1_for_each_layer_is_torchs() -> None:
    ours, theirs = prune_weights(_net(), 0.3, biases=True), _net()
    for index in LAYERS:
        for leaf in ("weight", "bias"):
            reference.l1_unstructured(theirs.get_submodule(index), leaf, 0.3)
    _same(ours, theirs)


def test_l1_across_layers_is_torchs() -> None:
    ours, theirs = prune_weights(_net(), 0.4, scope="global", biases=True), _net()
    places = [(theirs.get_submodule(i), leaf) for i in LAYERS for leaf in ("weight", "bias")]
    reference.global_unstructured(places, reference.L1Unstructured, amount=0.4)
    _same(ours, theirs)


def _same(ours: nn.Module, theirs: nn.Module) -> None:
    """The same names, masks, weights and outputs, with the masks and without."""
    one, other = ours.state_dict(), theirs.state_dict()
    assert set(one) == set(other)
    assert all(torch.equal(value, other[key]) for key, value in one.items())
    assert torch.equal(ours(IMAGES), theirs(IMAGES))
    for index in LAYERS:
        for leaf in ("weight", "bias"):
            reference.remove(theirs.get_submodule(index), leaf)
    plain = remove_masks(ours)
    assert set(plain.state_dict()) == set(theirs.state_dict())
    assert torch.equal(plain(IMAGES), theirs(IMAGES))


def test_random_masks_the_share_and_repeats_with_its_seed() -> None:
    one, again, other = (
        masks_of(prune_weights(_net(), 0.25, criterion="random", seed=seed)) for seed in (1, 1, 2)
    )
    for name, mask in one.items():
        assert int((mask == 0).sum()) == round(0.25 * mask.numel())
        assert torch.equal(mask, again[name])
    assert any(not torch.equal(mask, other[name]) for name, mask in one.items())


@pytest.mark.parametrize(("keep", "of"), [(2, 4), (1, 4), (3, 4), (1, 2)])
def test_n_of_m_keeps_the_largest_of_every_m_inputs(keep: int, of: int) -> None:
    net = _net()
    choices = PruneWeights(pattern=f"{keep}:{of}").choose_from(net)
    for name, mask in choices.tensors.items():
        weight = net.get_parameter(name).detach().abs().movedim(1, -1)
        kept = mask.movedim(1, -1).reshape(*weight.shape[:-1], -1, of)
        groups = weight.reshape(kept.shape)
        assert (kept.sum(-1) == keep).all()
        lowest_kept = groups.masked_fill(~kept, torch.inf).amin(-1)
        assert (groups.masked_fill(kept, 0).amax(-1) <= lowest_kept).all()
    rows = {row.weight: row.sparsity for row in masked_weights(choices)}
    assert rows["0.weight"] == rows["4.weight"] == 1 - keep / of


def test_blocks_go_whole_by_their_sum() -> None:
    net = _net()
    (mask,) = PruneWeights(0.5, pattern="2x4", ignore=("0", "2")).choose_from(net).tensors.values()
    blocks = mask.reshape(3, 2, 8, 4)
    kept = blocks.any(3).any(1)
    assert torch.equal(blocks, kept[:, None, :, None].expand_as(blocks))
    sums = net.get_parameter("4.weight").detach().abs().reshape(3, 2, 8, 4).sum((1, 3))
    assert int(kept.sum()) == 12
    assert sums[kept].min() >= sums[~kept].max()


def test_what_does_not_fit_a_pattern_is_told() -> None:
    rows = {
        row.weight: row for row in masked_weights(PruneWeights(pattern="3:8").choose_from(_net()))
    }
    assert rows["0.weight"].reason == "its 4 inputs are no multiple of 8"
    assert rows["2.weight"].masked == 8 * 5
    assert rows["0.bias"].reason == "a bias: biases=True masks them, too"


def test_wanda_is_the_magnitude_times_the_inputs_norm() -> None:
    net = _net()
    calls = [Call((IMAGES,), {}, None), Call((2 * IMAGES,), {}, None)]
    norms = input_norms(net, calls)
    with torch.no_grad():
        hidden = net[0](IMAGES).relu()
        flat = net[2](hidden).flatten(1)
    expected = (5 * IMAGES.double().square().sum((0, 2, 3))).sqrt()
    assert torch.allclose(norms["0.weight"].flatten(), expected)
    assert norms["4.weight"].shape == (32,)
    scale = (5 * flat.double().square().sum(0)).sqrt() / norms["4.weight"]
    assert (scale > 0.5).all()  # doubled inputs do not double what lies behind a bias
    choices = PruneWeights(0.5, criterion="wanda", ignore=("0", "2")).choose_from(net, calls)
    (mask,) = choices.tensors.values()
    scores = net.get_parameter("4.weight").detach().abs() * norms["4.weight"]
    assert scores[mask].min() >= scores[~mask].max()


def test_input_norms_are_the_same_of_a_graph() -> None:
    net = _net()
    calls = [Call((IMAGES,), {}, None)]
    one, other = input_norms(net, calls), input_norms(trace(net, (IMAGES,)), calls)
    assert all(torch.allclose(one[name], other[f"model.{name}"]) for name in one)


def test_taylor_and_hessian_score_by_gradients() -> None:
    net, labels = _net(), torch.tensor([0, 1, 2, 3])
    loss = nn.CrossEntropyLoss()
    calls = [Call((IMAGES,), {}, labels)]
    taylor = PruneWeights(0.5, criterion="taylor").choose_from(net, calls, 0, loss)
    loss(net(IMAGES), labels).backward()
    weight = net.get_parameter("4.weight")
    assert weight.grad is not None
    scores, mask = (weight * weight.grad).abs().detach(), taylor.tensors["4.weight"]
    assert scores[mask].min() >= scores[~mask].max()
    one, again = (
        PruneWeights(0.5, criterion="hessian").choose_from(net, calls).tensors for _ in range(2)
    )
    assert all(torch.equal(mask, again[name]) for name, mask in one.items())


def test_a_mask_upon_a_mask_keeps_what_is_gone() -> None:
    once_masked = prune_weights(_net(), 0.3)
    twice = prune_weights(once_masked, 0.6, criterion="random")
    for name, mask in masks_of(twice).items():
        assert int((mask == 0).sum()) == round(0.6 * mask.numel())
        assert not (mask > masks_of(once_masked)[name]).any()


class Tied(nn.Module):
    """An embedding whose weight the head reads, too."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(10, 8), nn.Linear(8, 10, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.table(ids).relu())
        return out


def test_tied_weights_stay_tied_and_one() -> None:
    torch.manual_seed(0)
    net, ids = Tied().eval(), torch.randint(0, 10, (6, 4))
    masked = prune_weights(net, 0.5)
    assert isinstance(masked, Tied)
    assert masked.table.weight_orig is masked.head.weight_orig
    plain = remove_masks(masked)
    assert isinstance(plain, Tied)
    assert plain.table.weight is plain.head.weight
    graph = prune_weights(trace(net, (ids,)), 0.5)
    for other in (plain, graph, remove_masks(graph)):
        torch.testing.assert_close(other(ids), masked(ids))
    assert not torch.equal(masked(ids), net(ids))


def test_gradients_reach_tied_weights_by_their_name() -> None:
    torch.manual_seed(0)
    net, ids = Tied().eval(), torch.randint(0, 10, (6, 4))
    calls = [Call((ids,), {}, None)]
    (mask,) = (
        PruneWeights(0.5, criterion="fisher")
        .choose_from(net, calls, 0, lambda out, _: out.square().mean())
        .tensors.values()
    )
    net(ids).square().mean().backward()
    weight = net.head.weight
    assert weight.grad is not None
    scores = (weight * weight.grad).square().detach()
    assert scores[mask].min() >= scores[~mask].max() > 0


def test_a_graph_is_masked_as_its_module_is() -> None:
    net = _net()
    traced = trace(net, (IMAGES,))
    masked = prune_weights(traced, 0.3)
    module = prune_weights(net, 0.3)
    assert isinstance(masked, Traced)
    assert torch.allclose(masked(IMAGES), module(IMAGES), atol=1e-6)
    assert {name.removeprefix("model.") for name in masks_of(masked)} == set(masks_of(module))
    twice = prune_weights(masked, 0.6)
    plain = remove_masks(twice)
    assert not is_masked(plain)
    assert torch.allclose(plain(IMAGES), prune_weights(net, 0.6)(IMAGES), atol=1e-6)


def test_masked_weights_train_and_stay_zero() -> None:
    masked = prune_weights(_net(), 0.5)
    optimizer = torch.optim.SGD(masked.parameters(), 0.1, weight_decay=0.1)
    for _ in range(3):
        masked(IMAGES).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, weight in remove_masks(masked).named_parameters():
        if name.endswith("weight"):
            assert round(0.5 * weight.numel()) == int((weight == 0).sum())


def test_the_users_model_stays_as_it_was() -> None:
    net = _net()
    before = copy.deepcopy(net.state_dict())
    prune_weights(net, 0.5)
    assert list(net.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_a_model_in_train_mode_is_scored_in_eval_mode_and_stays_as_it_was() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 4))
    x = torch.randn(16, 4)
    for criterion in ("wanda", "hessian", "sparsegpt"):
        one, again = (
            masks_of(prune_weights(model, 0.5, criterion=criterion, calibration=[x]))
            for model in (net.train(), copy.deepcopy(net).eval())
        )
        assert all(torch.equal(mask, again[name]) for name, mask in one.items())
    assert net.training
    assert int(net.get_buffer("1.num_batches_tracked")) == 0


def test_squares_and_magnitudes_differ_in_blocks() -> None:
    net = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.0, 3.0, 2.0, 2.0]]))
    l1, l2 = (masks_of(prune_weights(net, 0.5, pattern="1x2", criterion=c)) for c in ("l1", "l2"))
    assert l1["weight"].tolist() == [[0, 0, 1, 1]]
    assert l2["weight"].tolist() == [[1, 1, 0, 0]]


def test_each_output_of_a_group_meets_the_inputs_of_its_own() -> None:
    net = nn.Conv2d(4, 8, 3, groups=2)
    norms = input_norms(net, [Call((IMAGES,), {}, None)])["weight"]
    expected = IMAGES.double().square().sum((0, 2, 3)).sqrt().reshape(2, 1, 2)
    assert torch.allclose(norms.reshape(2, 4, 2), expected.expand(2, 4, 2))

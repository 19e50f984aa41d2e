"""Masks upon masks: what is gone stays gone, and the sparsity is what is masked in all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from burnish.errors import InvalidInput, NoEffect
from burnish.graph import Traced, trace
from burnish.prune import (
    PruneWeights,
    is_masked,
    masked_weights,
    masks_of,
    prune_weights,
    remove_masks,
)

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4)).eval()


@pytest.fixture(scope="module")
def traced() -> Traced:
    return trace(_net(), (X,))


def _shares(model: nn.Module) -> list[float]:
    return [float((mask == 0).float().mean()) for mask in masks_of(model).values()]


@pytest.mark.parametrize("form", ["module", "graph"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_rounds_of_masks_add_up(form: str, scope: str, traced: Traced) -> None:
    """Each round has the share it asked for, upon the masks before; names and weights stay."""
    model: nn.Module = _net() if form == "module" else traced
    weights = {name: value.clone() for name, value in model.named_parameters()}
    old: dict[str, torch.Tensor] = {}
    for sparsity in (0.25, 0.5, 0.75):
        model = prune_weights(model, sparsity, scope=scope)
        masks = masks_of(model)
        assert sum(int((m == 0).sum()) for m in masks.values()) == sparsity * (96 + 48)
        assert all(not (mask > old.get(name, mask)).any() for name, mask in masks.items())
        old = {name: mask.clone() for name, mask in masks.items()}
        if scope == "layer":
            assert _shares(model) == [sparsity, sparsity]
    names = {name.removesuffix("_orig"): value for name, value in model.named_parameters()}
    assert set(names) == set(weights)
    assert all(torch.equal(value, weights[name]) for name, value in names.items())
    assert torch.equal(remove_masks(model)(X), model(X))


def test_a_third_mask_is_no_third_hook() -> None:
    model: nn.Module = _net()
    for sparsity in (0.2, 0.4, 0.6):
        model = prune_weights(model, sparsity)
    hooks = [len(module._forward_pre_hooks) for module in model.modules()]
    assert hooks == [0, 1, 0, 1]


def test_the_choices_hold_all_that_is_masked() -> None:
    """So that the table is true, and a replay on a model without masks gives the same."""
    half = prune_weights(_net(), 0.5)
    step = PruneWeights(0.75)
    choices = step.choose_from(half)
    assert {row.weight: row.sparsity for row in masked_weights(choices)} == {
        "0.weight": 0.75,
        "0.bias": 0.0,
        "2.weight": 0.75,
        "2.bias": 0.0,
    }
    upon, anew = step.rewrite(half, choices), step.rewrite(_net(), choices)
    assert torch.equal(upon(X), anew(X))
    assert _shares(half) == [0.5, 0.5]


def test_a_weight_that_is_ignored_now_keeps_its_mask() -> None:
    half = prune_weights(_net(), 0.5)
    choices = PruneWeights(0.75, ignore=("2",)).choose_from(half)
    rows = {row.weight: row for row in masked_weights(choices)}
    assert (rows["2.weight"].sparsity, rows["2.weight"].reason) == (0.5, "ignore names '2'")
    assert _shares(PruneWeights(0.75).rewrite(half, choices)) == [0.75, 0.5]


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_less_than_is_masked_already_is_refused(scope: str) -> None:
    half = prune_weights(_net(), 0.5)
    with pytest.raises(InvalidInput, match=r"is less than the 0\.500 that are masked already"):
        prune_weights(half, 0.4, scope=scope)
    with pytest.raises(NoEffect, match="of 144 weights masks none more"):
        prune_weights(half, 0.5, scope=scope)


def test_one_layer_beyond_the_share_is_named() -> None:
    uneven = prune_weights(prune_weights(_net(), 0.7, ignore=("0",)), 0.2, ignore=("2",))
    assert _shares(uneven) == pytest.approx([0.2, 0.7], abs=0.02)
    with pytest.raises(InvalidInput, match=r"sparsity=0\.5 of 2\.weight is less"):
        prune_weights(uneven, 0.5)
    total = sum(
        int((m == 0).sum()) for m in masks_of(prune_weights(uneven, 0.5, scope="global")).values()
    )
    assert total == 72


def test_blocks_upon_single_zeros_count_what_is_left_of_them() -> None:
    """A block of which half is gone goes by its other half; one that is gone goes first."""
    net = nn.Linear(2, 4, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[5.0, 1.0], [5.0, 1.0], [0.1, 3.0], [0.2, 3.0]]))
    single = prune_weights(net, 0.25)  # 0.1, 0.2: all of the third block of 2x1
    blocks = prune_weights(single, 0.5, pattern="2x1")
    assert masks_of(blocks)["weight"].tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.1, 4.0], [9.0, 4.0], [6.0, 8.0], [6.0, 8.0]]))
    part = prune_weights(net, 1 / 8)
    assert masks_of(prune_weights(part, 0.25, pattern="2x1"))["weight"].tolist() == [
        [0, 0],
        [1, 0],
        [1, 1],
        [1, 1],
    ]


def test_a_pattern_upon_masks_holds_and_lets_nothing_come_back() -> None:
    single = prune_weights(_net(), 0.6)
    both = prune_weights(single, pattern="2:4")
    for name, mask in masks_of(both).items():
        assert int(mask.reshape(-1, 4).sum(1).max()) <= 2
        assert not (mask > masks_of(single)[name]).any()
    with pytest.raises(NoEffect, match=r"sparsity=0\.5 of 144 weights masks none more"):
        prune_weights(both, pattern="2:4")


def test_a_buffer_of_the_users_that_is_called_a_mask_is_none() -> None:
    class Causal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = nn.Linear(3, 3)
            self.register_buffer("causal_mask", torch.ones(3, 3).tril())

        def forward(self, x: torch.Tensor) -> Any:
            return self.inside(x) @ self.get_buffer("causal_mask")

    assert not is_masked(Causal())
    masked = prune_weights(Causal(), 0.5)
    assert set(masks_of(masked)) == {"inside.weight"}
    graph = prune_weights(trace(Causal().eval(), (torch.randn(2, 3),)), 0.5)
    assert set(masks_of(graph)) == {"model.inside.weight"}
    assert torch.allclose(remove_masks(graph)(X[:, :3]), graph(X[:, :3]))


def test_a_pattern_has_no_parts() -> None:
    assert PruneWeights(0.9).part(0.2, 0.5) == PruneWeights(0.5)
    with pytest.raises(InvalidInput, match="cannot be had in parts"):
        _ = PruneWeights(pattern="2:4").share

"""Movement against the paper's two updates, written down by hand for a few steps."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from burnish.errors import InvalidInput
from burnish.goal import Call, Goal, Inputs, Task
from burnish.metrics import top1
from burnish.prune import PruneWeights, masks_of, prune_weights, remove_masks
from burnish.prune._gradients import MOST_SAMPLES
from burnish.prune._movement import RATE, movement
from burnish.prune._pattern import parse
from burnish.prune._weight_layers import weights_of


def _linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(8, 3, bias=False).double()


def _batches(count: int) -> list[Call]:
    generator = torch.Generator().manual_seed(2)
    return [
        Call(
            (torch.randn(5, 8, generator=generator).double(),),
            {},
            torch.randn(5, 3, generator=generator).double(),
        )
        for _ in range(count)
    ]


def _loss(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (out - target).square().sum()


def _by_hand(net: nn.Linear, calls: list[Call], seed: int, scale: float = 1.0) -> tuple:
    """The gradient of Σ (W⊙M x − y)² by W⊙M is 2 Σ (W⊙M x − y) xᵀ, clipped to norm 1."""
    weight, scores = net.weight.detach().clone(), torch.zeros(3, 8).double()
    order = torch.randperm(len(calls), generator=torch.Generator().manual_seed(seed))
    for step, index in enumerate(order.tolist()):
        share = 0.5 * (1 - (1 - step / len(calls)) ** 3)
        mask = torch.ones(24)
        mask[scores.flatten().argsort()[: round(24 * share)]] = 0
        mask = mask.reshape(3, 8).double()
        x, y = calls[index].args[0], calls[index].target
        gradient = scale * 2 * ((weight * mask) @ x.T - y.T) @ x
        gradient /= max(1.0, float(gradient.norm()))
        scores, weight = scores - RATE * gradient * weight, weight - RATE * gradient * mask
    return scores, weight


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_it_is_the_papers_descent(steps: int, scale: float) -> None:
    """With gradients that are clipped (1.0) and such as are not (1e-3)."""
    net, calls = _linear(), _batches(steps)
    scores, values = movement(
        net,
        weights_of(net),
        calls,
        lambda out, target: scale * _loss(out, target),
        parse("unstructured"),
        0.5,
        seed=4,
    )
    expected, weight = _by_hand(net, calls, seed=4, scale=scale)
    torch.testing.assert_close(scores["weight"], expected)
    torch.testing.assert_close(values["weight"], weight)


def test_what_moves_away_from_zero_stays_with_what_it_has_become() -> None:
    net, calls = _linear(), _batches(5)
    before = copy.deepcopy(net.state_dict())
    step = PruneWeights(0.5, criterion="movement")
    choices = step.choose_from(net, calls, 4, _loss)
    assert torch.equal(net.weight, before["weight"])
    expected, weight = _by_hand(net, calls, seed=4)
    mask = choices.tensors["weight"]
    assert int(mask.sum()) == 12
    assert expected[mask].min() >= expected[~mask].max()
    plain = remove_masks(step.rewrite(net, choices)).get_parameter("weight")
    torch.testing.assert_close(plain, nn.Parameter(weight * mask))
    magnitude = PruneWeights(0.5).choose_from(net).tensors["weight"]
    assert not torch.equal(mask, magnitude)


def test_a_weight_of_use_is_found_where_its_magnitude_does_not_tell() -> None:
    """Half of the inputs say nothing of the target, and have the larger weights."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Linear(16, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.cat([torch.full((1, 8), 0.3), torch.full((1, 8), 0.6)], 1))
    calls = []
    for _ in range(30):
        x = torch.randn(32, 16, generator=generator)
        calls.append(Call((x,), {}, x[:, :8].sum(1, keepdim=True)))
    step = PruneWeights(0.5, criterion="movement")
    mask = step.choose_from(net, calls, 0, nn.functional.mse_loss).tensors["weight"]
    assert mask[0, :8].all()
    assert not mask[0, 8:].any()


@pytest.mark.parametrize("settings", [{"pattern": "2:4"}, {"sparsity": 0.5, "pattern": "2x2"}])
def test_patterns_hold(settings: dict) -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 6))
    x = torch.randn(8, 4, 4, 4)
    calls = [Call((x,), {}, torch.randint(0, 6, (8,))) for _ in range(4)]
    step = PruneWeights(criterion="movement", **settings)
    choices = step.choose_from(net, calls, 0, nn.functional.cross_entropy)
    assert int(net.get_buffer("1.num_batches_tracked")) == 0
    for name in ("0.weight", "3.weight"):
        mask = choices.tensors[name]
        if settings["pattern"] == "2:4":
            assert (mask.movedim(1, -1).reshape(-1, 4).sum(1) == 2).all()
        else:
            blocks = mask.reshape(len(mask) // 2, 2, -1, 2)
            assert torch.equal(blocks, blocks[:, :1, :, :1].expand_as(blocks))


def test_what_is_gone_stays_gone_and_a_goal_gives_the_data() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    masked = prune_weights(net, 0.25)
    data = [(torch.randn(8, 8), torch.randint(0, 4, (8,))) for _ in range(3)]
    task = Task(Inputs(data[0][0]), top1, train=data, loss=nn.functional.cross_entropy)
    step = PruneWeights(0.5, criterion="movement", scope="global")
    choices, again = (step.choose(masked, Goal(task, seed=3)) for _ in range(2))
    assert all(torch.equal(value, again.tensors[name]) for name, value in choices.tensors.items())
    twice = masks_of(step.rewrite(masked, choices))
    assert sum(int((mask == 0).sum()) for mask in twice.values()) == 48
    assert all(not (twice[name] > mask).any() for name, mask in masks_of(masked).items())


def test_no_more_samples_than_the_bound_are_looked_at() -> None:
    net, seen = _linear(), 0

    def endless():
        nonlocal seen
        while True:
            seen += 256
            yield Call((torch.randn(256, 8).double(),), {}, torch.zeros(256, 3).double())

    PruneWeights(0.5, criterion="movement").choose_from(net, endless(), 0, nn.functional.mse_loss)
    assert seen == MOST_SAMPLES


def test_bad_input() -> None:
    net, step = _linear(), PruneWeights(0.5, criterion="movement")
    with pytest.raises(InvalidInput, match="needs data, and there is no batch"):
        step.choose_from(net, [], 0, _loss)
    with pytest.raises(InvalidInput, match="criterion='movement'\\) needs a loss"):
        step.choose_from(net, _batches(1))
    task = Task(Inputs(torch.randn(2, 8)), top1, loss=_loss)
    with pytest.raises(InvalidInput, match="needs train data"):
        step.choose(net, Goal(task))
    with pytest.raises(InvalidInput, match=r"needs Task\(loss"):
        step.choose(net, Goal(Task(Inputs(torch.randn(2, 8)), top1, train=[])))
    with pytest.raises(InvalidInput, match="needs a loss: apply PruneWeights for a goal"):
        prune_weights(net, 0.5, criterion="movement")
    with pytest.raises(InvalidInput, match="look for NaN and infinity"):
        step.choose_from(net, _batches(3), 0, lambda out, target: _loss(out, target) * torch.nan)
    with pytest.raises(InvalidInput, match="the loss is inf"):
        step.choose_from(net, _batches(1), 0, lambda out, target: 1e308 * _loss(out, target))


@pytest.mark.parametrize("criterion", ["movement", "taylor", "fisher"])
def test_a_loss_that_is_none_is_named(criterion: str) -> None:
    net, step = _linear(), PruneWeights(0.5, criterion=criterion)
    with pytest.raises(InvalidInput, match="a count of right answers is none"):
        step.choose_from(net, _batches(1), 0, lambda out, target: (out > target).float().mean())
    with pytest.raises(InvalidInput, match=r"the loss is \[5, 3\]"):
        step.choose_from(net, _batches(1), 0, lambda out, target: out - target)

"""A zeroed weight stays zero whatever trains it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from burnish.goal import Inputs, Task
from burnish.metrics import top1
from burnish.train import Tricks, fit
from burnish.train._zeros import hold_zeros

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(32, 6, generator=GENERATOR)
Y = (X[:, 0] > 0).long()


def pruned() -> Any:
    torch.manual_seed(1)
    net: Any = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        net[0].weight[net[0].weight.abs() < 0.2] = 0.0
        net[0].bias.zero_()
    return net


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    ],
    ids=["adamw", "sgd", "rmsprop"],
)
def test_zeros_are_held_under_momentum_and_decay(optimizer) -> None:
    net = pruned()
    mask = net[0].weight.detach() == 0
    assert mask.any()
    handles = hold_zeros(net)
    steps = optimizer(net.parameters())
    for _ in range(5):
        steps.zero_grad()
        (1e3 * F.cross_entropy(net(X), Y)).backward()
        steps.step()
    assert torch.equal(net[0].weight == 0, mask)
    assert bool((net[0].bias != 0).any()), "a bias that began at zero was held"
    for handle in handles:
        handle.remove()
    steps.zero_grad()
    F.cross_entropy(net(X), Y).backward()
    steps.step()
    assert bool((net[0].weight[mask] != 0).any()), "a hook stayed"


def test_a_gradient_that_is_not_finite_does_not_pass_the_mask() -> None:
    """A scaled float16 loss may give one: the step is skipped then, and must be seen as such."""
    net = pruned()
    hold_zeros(net)
    (net(X).sum() * float("inf")).backward()
    gradient = net[0].weight.grad
    assert gradient is not None
    mask = net[0].weight == 0
    assert torch.equal(gradient[mask], torch.zeros_like(gradient[mask]))
    assert not torch.isfinite(gradient[~mask]).all()


def test_fit_keeps_zeros_where_it_is_asked_to() -> None:
    task = Task(Inputs(X[:2]), top1, train=[(X, Y)] * 3, loss=F.cross_entropy)
    net = pruned()
    mask = net[0].weight == 0
    for keep in (True, False):
        tricks = Tricks(keep_zeros=keep, ema=0.5)
        trained: Any = fit(net, task, epochs=2, learning_rate=0.05, tricks=tricks).model
        assert torch.equal(trained[0].weight == 0, mask) == keep
        assert not torch.equal(trained[0].weight, net[0].weight)

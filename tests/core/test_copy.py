"""Copies of models that keep the result of a computation between calls."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from burnish.core import copied_model


def _masked() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    prune.l1_unstructured(net[0], "weight", 0.5)
    return net


def test_a_masked_module_is_copied_where_torch_refuses() -> None:
    net, x = _masked(), torch.randn(5, 4)
    output = net(x)
    with pytest.raises(RuntimeError, match="graph leaves"):
        copy.deepcopy(net)
    copied = copied_model(net)
    assert torch.equal(copied(x), output)
    assert list(copied.state_dict()) == list(net.state_dict())


def test_the_copy_trains_alone() -> None:
    net, x = _masked(), torch.randn(5, 4)
    copied = copied_model(net)
    before = net(x).detach()
    copied(x).square().mean().backward()
    torch.optim.SGD(copied.parameters(), 0.1).step()
    assert not torch.equal(copied(x), before)
    assert torch.equal(net(x), before)
    assert next(net.parameters()).grad is None


def test_what_cannot_be_copied_raises_as_ever() -> None:
    net = nn.Linear(1, 1)
    net.batches = (item for item in range(2))  # type: ignore[assignment]
    with pytest.raises(TypeError, match="generator"):
        copied_model(net)

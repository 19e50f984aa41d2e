"""For every topology: what is masked is what is removed, and something is removed at all."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import nn

from burnish.graph import Traced, channel_groups, set_mode, trace
from tests.graph.channels.agree import both, difference, third
from tests.graph.channels.topologies import TOPOLOGIES, Topology

HEADS: tuple[Literal["whole", "width"], ...] = ("whole", "width")


@pytest.fixture(params=TOPOLOGIES, ids=lambda topology: topology.name)
def topology(request: pytest.FixtureRequest) -> Topology:
    found = request.param
    assert isinstance(found, Topology)
    return found


def _inputs(topology: Topology) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(shape, generator=generator).double() for shape in topology.shapes)


def _traced(topology: Topology, model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Traced:
    time_first = topology.name in ("multihead", "rnn", "lstm", "lstm_projected")
    return trace(model, inputs, axes={"0": {int(time_first): "batch"}})


@pytest.mark.parametrize("heads", HEADS)
def test_masked_equals_shrunk(topology: Topology, heads: Literal["whole", "width"]) -> None:
    torch.manual_seed(0)
    model = topology.make().double().eval()
    inputs = _inputs(topology)
    traced = _traced(topology, model, inputs)
    channels = channel_groups(traced, heads)
    if heads == "whole":
        assert len(channels.free) == topology.free, [g.frozen for g in channels]
    removed = third(channels)
    masked, shrunk = both(channels, removed)
    assert difference(masked, shrunk, inputs) < 1e-12
    assert difference(traced, shrunk, inputs) > 1e-6
    num = [sum(p.numel() for p in m.parameters()) for m in (traced, shrunk)]
    assert num[1] < num[0]


def test_a_shrunk_graph_trains(topology: Topology) -> None:
    torch.manual_seed(0)
    model = topology.make().double()
    inputs = _inputs(topology)
    traced = _traced(topology, model.eval(), inputs)
    channels = channel_groups(traced)
    _, shrunk = both(channels, third(channels))
    training = set_mode(shrunk, True)
    training(*inputs).square().mean().backward()
    grads = [p.grad for p in training.parameters()]
    assert grads
    assert all(grad is not None for grad in grads)

"""Which groups there are, why some must stay, and what a removal is refused for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from burnish.errors import InvalidInput
from burnish.graph import Channels, channel_groups, shrink_channels, tensor_of, trace
from burnish.testing import Tiny, catalogue
from tests.graph.channels.agree import both, difference, third
from tests.graph.channels.topologies import Around


def _channels(model: nn.Module, *shape: int) -> Channels:
    return channel_groups(trace(model.eval(), (torch.randn(*shape),)))


@pytest.mark.parametrize("tiny", catalogue(), ids=lambda tiny: tiny.name)
def test_masked_equals_shrunk_over_the_catalogue(tiny: Tiny) -> None:
    inputs = tiny.inputs()
    model = tiny.build().double()
    args = tuple(_double(leaf) for leaf in inputs.args)
    kwargs = {key: _double(leaf) for key, leaf in inputs.kwargs.items()}
    axes = {leaf.key: leaf.axes for leaf in inputs.leaves()}
    channels = channel_groups(trace(model, args, kwargs, axes))
    removed = third(channels)
    assert bool(removed) == (tiny.name != "nested_output")
    masked, shrunk = both(channels, removed)
    called = tuple(leaf for leaf in (*args, *kwargs.values()) if isinstance(leaf, torch.Tensor))
    assert difference(masked.graph_module, shrunk.graph_module, called) < 1e-12


def _double(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf


def test_a_residual_network_has_one_group_for_each_stream_and_branch() -> None:
    tiny = {tiny.name: tiny for tiny in catalogue()}["residual"]
    channels = channel_groups(tiny.trace())
    assert [(group.name, group.num_channels) for group in channels.free] == [
        ("stem.0:conv2d", 8),
        ("body.0.0:conv2d", 8),
        ("last.0.0:conv2d", 8),
    ]
    stream = channels.free[0]
    assert stream.layers == ("stem.0:conv2d", "body.2.0:conv2d", "last.2.0:conv2d")
    lies = {(member.tensor, member.axis) for member in stream.members}
    assert ("model.head.2.weight", 1) in lies
    assert ("model.stem.1.running_var", 0) in lies


def test_a_flattened_channel_takes_all_its_pixels_along() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
    (group,) = _channels(model, 2, 3, 8, 8).free
    (columns,) = (member for member in group.members if member.tensor == "model.2.weight")
    assert (columns.positions == np.arange(144).reshape(4, 36)).all()


def _sorted(m: Any, x: torch.Tensor) -> Any:
    return m.two(torch.sort(m.one(x))[0])


def _folded(m: Any, x: torch.Tensor) -> Any:
    x = m.one(x)
    n, c, h, w = x.shape
    kernel = torch.ones(n * c, 1, 1, 1)
    return m.two(F.conv2d(x.reshape(1, n * c, h, w), kernel, groups=n * c).reshape(n, c, h, w))


FROZEN: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "output": (lambda: nn.Conv2d(3, 4, 1), (2, 3, 5, 5), "output of the model"),
    "softmax over channels": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.Softmax(1), nn.Conv2d(4, 2, 1)),
        (2, 3, 5, 5),
        "all of it is mixed at 1:softmax",
    ),
    "mean over channels": (
        lambda: Around(lambda m, x: m.one(x).mean(-1, keepdim=True), one=nn.Linear(3, 4)),
        (2, 3),
        "put into one number at mean",
    ),
    "unknown operator": (
        lambda: Around(_sorted, one=nn.Linear(3, 4), two=nn.Linear(4, 2)),
        (2, 3),
        "no rule is known for sort",
    ),
    "added to an input": (
        lambda: Around(lambda m, x: m.two(m.one(x) + x), one=nn.Linear(3, 3), two=nn.Linear(3, 2)),
        (2, 3),
        "it is the input",
    ),
    "batch folded into channels": (
        lambda: Around(_folded, one=nn.Conv2d(3, 4, 1), two=nn.Conv2d(4, 2, 1)),
        (2, 3, 5, 5),
        "the batch is folded into channels: the groups of conv2d (",
    ),
    "a single channel": (
        lambda: nn.Sequential(nn.Conv2d(3, 1, 1), nn.Conv2d(1, 4, 1), nn.Flatten()),
        (2, 3, 5, 5),
        "output of the model",
    ),
}


@pytest.mark.parametrize("name", FROZEN)
def test_what_must_stay_says_why(name: str) -> None:
    make, shape, reason = FROZEN[name]
    channels = _channels(make(), *shape)
    assert channels.groups
    assert not channels.free
    assert any(reason in str(group.frozen) for group in channels), [g.frozen for g in channels]


def test_a_reason_names_the_line_of_the_users_forward() -> None:
    channels = _channels(FROZEN["unknown operator"][0](), 2, 3)
    assert any("topologies.py:" in str(group.frozen) for group in channels)


REMOVED: dict[str, tuple[dict[str, list[int]], str]] = {
    "no such group": ({"nowhere": [0]}, "no group of channels is called 'nowhere'; there are: 0:"),
    "no such channel": ({"0:conv2d": [0, 8]}, "has channels 0 to 7"),
    "twice": ({"0:conv2d": [1, 1]}, "to be removed: \\[1, 1\\]"),
    "all": ({"0:conv2d": list(range(8))}, "all 8 channels of '0:conv2d'"),
    "frozen": ({"2:conv2d": [0]}, "must stay: it is an output"),
}


@pytest.mark.parametrize("name", REMOVED)
def test_refused_removals(name: str) -> None:
    removed, message = REMOVED[name]
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1))
    channels = _channels(model, 2, 3, 8, 8)
    with pytest.raises(InvalidInput, match=message):
        shrink_channels(channels, removed)


def test_other_words_for_heads_are_refused() -> None:
    traced = trace(nn.Linear(3, 4), (torch.randn(2, 3),))
    with pytest.raises(InvalidInput, match="'whole' heads or 'width'"):
        channel_groups(traced, "all")  # type: ignore[arg-type]


def test_the_graph_it_was_given_stays_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)).eval()
    x = torch.randn(2, 3, 8, 8)
    traced = trace(model, (x,))
    before, code = copy.deepcopy(traced.state_dict()), str(traced.graph_module.graph)
    channels = channel_groups(traced)
    both(channels, third(channels))
    assert str(traced.graph_module.graph) == code
    after = traced.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_constant_goes_into_the_next_bias_where_nothing_is_padded() -> None:
    """sigmoid(0) = 0.5 in each masked channel: the reader gets it as a bias, once."""
    torch.manual_seed(0)
    first, last = nn.Linear(3, 4).double(), nn.Linear(4, 2, bias=False).double()
    model = nn.Sequential(first, nn.Sigmoid(), last)
    x = torch.randn(5, 3).double()
    channels = channel_groups(trace(model, (x,)))
    shrunk = shrink_channels(channels, {"0:linear": [1, 3]})
    weight = last.weight.detach()
    hidden = torch.sigmoid(first(x))[:, [0, 2]]
    expected = hidden @ weight[:, [0, 2]].T + 0.5 * weight[:, [1, 3]].sum(1)
    assert torch.allclose(shrunk(x), expected, atol=1e-12)


def test_a_constant_that_meets_padding_is_masked_instead() -> None:
    torch.manual_seed(0)
    make = [nn.Conv2d(3, 4, 1), nn.Sigmoid(), nn.Conv2d(4, 2, 3, padding=1, bias=False)]
    model = nn.Sequential(*make).double()
    x = torch.randn(2, 3, 5, 5).double()
    channels = channel_groups(trace(model, (x,)))
    masked, shrunk = both(channels, {"0:conv2d": [1]})
    names = [str(node.target) for node in masked.graph_module.graph.nodes]
    assert "aten.mul.Tensor" in names
    assert difference(masked, shrunk, (x,)) < 1e-12


def test_a_third_of_the_weights_is_gone_from_the_right_places() -> None:
    one, other = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 1)
    model = nn.Sequential(one, nn.BatchNorm2d(6), nn.ReLU(), other)
    channels = _channels(model, 2, 3, 8, 8)
    shrunk = shrink_channels(channels, {"0:conv2d": [0, 5]})
    found = {
        str(node.target): tensor_of(shrunk.graph_module, node)
        for node in shrunk.graph_module.graph.nodes
    }
    first, last = found["model.0.weight"], found["model.3.weight"]
    assert first is not None
    assert last is not None
    assert torch.equal(first, one.weight[1:5])
    assert torch.equal(last, other.weight[:, 1:5])

"""Each criterion against its formula, written down once more for one small network."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from burnish.errors import InvalidInput
from burnish.goal import Call
from burnish.graph import Channels, Traced, channel_groups, trace
from burnish.prune._gradients import loss_gradients, output_gradients
from burnish.prune._importance import importance
from burnish.prune._weight_layers import input_norms


class Net(nn.Module):
    """conv → batch-norm → ReLU → mean → linear: one group of five channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.norm = nn.BatchNorm2d(5)
        self.head = nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.norm(self.conv(x)).relu().mean((2, 3)))
        return logits


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    net = Net().double().eval()
    nn.init.normal_(net.norm.weight)
    nn.init.normal_(net.norm.bias)
    return net


@pytest.fixture(scope="module")
def traced(net: Net) -> Traced:
    return trace(net, (torch.randn(2, 3, 6, 6).double(),))


@pytest.fixture(scope="module")
def channels(traced: Traced) -> Channels:
    return channel_groups(traced)


def _calls() -> Iterator[Call]:
    generator = torch.Generator().manual_seed(3)
    for _ in range(2):
        images = torch.randn(8, 3, 6, 6, generator=generator).double()
        yield Call((images,), {}, torch.randint(0, 4, (8,), generator=generator))


def _scores(channels: Channels, criterion: str) -> np.ndarray:
    (scores,) = importance(channels, criterion).values()
    return scores


def test_l1_and_l2_sum_rows_and_columns(net: Net, channels: Channels) -> None:
    rows, columns = net.conv.weight.detach(), net.head.weight.detach()
    l1 = rows.abs().sum((1, 2, 3)) + columns.abs().sum(0)
    l2 = rows.square().sum((1, 2, 3)) + columns.square().sum(0)
    assert np.allclose(_scores(channels, "l1"), l1)
    assert np.allclose(_scores(channels, "l2"), l2)


def test_batch_norm_is_the_scale(net: Net, channels: Channels) -> None:
    assert np.allclose(_scores(channels, "batch_norm"), net.norm.weight.detach().abs())


def test_fpgm_sums_distances(net: Net, channels: Channels) -> None:
    rows = net.conv.weight.detach().flatten(1)
    distances = (rows[:, None] - rows[None]).norm(dim=2).sum(1)
    assert np.allclose(_scores(channels, "fpgm"), distances)


def test_lamp_divides_by_what_is_no_smaller(channels: Channels) -> None:
    squares = _scores(channels, "l2")
    expected = [square / squares[squares >= square].sum() for square in squares]
    assert np.allclose(_scores(channels, "lamp"), expected)


def test_random_is_the_seeds(channels: Channels) -> None:
    one, again, other = (
        importance(channels, "random", seed=seed)["conv:conv2d"] for seed in (1, 1, 2)
    )
    assert (one == again).all()
    assert (one != other).any()


def test_taylor_is_the_square_of_the_first_order(
    net: Net, traced: Traced, channels: Channels
) -> None:
    loss = nn.CrossEntropyLoss()
    gradients = loss_gradients(traced, _calls(), loss)
    (found,) = importance(channels, "taylor", gradients).values()
    expected = torch.zeros(5).double()
    for call in _calls():
        net.zero_grad()
        loss(net(*call.args), call.target).backward()
        change = torch.zeros(5).double()
        for tensor, axis in ((net.conv.weight, 0), (net.conv.bias, 0), (net.norm.weight, 0),
                             (net.norm.bias, 0), (net.head.weight, 1)):  # fmt: skip
            assert tensor is not None
            assert tensor.grad is not None
            change += (tensor.detach() * tensor.grad).movedim(axis, 0).reshape(5, -1).sum(1)
        expected += change.square() / 2
    assert np.allclose(found, expected)


def test_fisher_sums_squares_of_each_entry(net: Net, traced: Traced, channels: Channels) -> None:
    loss = nn.CrossEntropyLoss()
    (found,) = importance(channels, "fisher", loss_gradients(traced, _calls(), loss)).values()
    expected = torch.zeros(5).double()
    for call in _calls():
        net.zero_grad()
        loss(net(*call.args), call.target).backward()
        for tensor, axis in ((net.conv.weight, 0), (net.conv.bias, 0), (net.norm.weight, 0),
                             (net.norm.bias, 0), (net.head.weight, 1)):  # fmt: skip
            assert tensor is not None
            assert tensor.grad is not None
            squares = (tensor.detach() * tensor.grad).square()
            expected += squares.movedim(axis, 0).reshape(5, -1).sum(1) / 2 / 2
    assert np.allclose(found, expected)


def test_fisher_is_told_from_the_hessian_by_labels(traced: Traced, channels: Channels) -> None:
    """Where the network is right, the loss has no gradient, and its outputs still have one."""
    (call, _) = _calls()
    right = [Call(call.args, {}, traced(*call.args).detach())]
    gradients = loss_gradients(traced, right, nn.functional.mse_loss)
    (fisher,) = importance(channels, "fisher", gradients).values()
    (hessian,) = importance(channels, "hessian", output_gradients(traced, right, 0)).values()
    assert (fisher == 0).all()
    assert (hessian > 0).any()


def test_wanda_sums_weights_times_the_norms_of_their_inputs(
    net: Net, traced: Traced, channels: Channels
) -> None:
    norms = input_norms(traced, _calls())
    (found,) = importance(channels, "wanda", norms=norms).values()
    images = torch.cat([call.args[0] for call in _calls()])
    read = images.square().sum((0, 2, 3)).sqrt().reshape(3, 1, 1)
    rows = (net.conv.weight.detach().abs() * read).sum((1, 2, 3))
    with torch.no_grad():
        hidden = net.norm(net.conv(images)).relu().mean((2, 3))
    columns = net.head.weight.detach().abs().sum(0) * hidden.square().sum(0).sqrt()
    assert np.allclose(found, rows + columns)


def test_wanda_takes_each_channel_of_a_depthwise_convolution_for_itself() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(16, 3)
    )
    x = torch.randn(3, 2, 4, 4)
    traced = trace(net.eval(), (x,))
    found = importance(
        channel_groups(traced), "wanda", norms=input_norms(traced, [Call((x,), {}, None)])
    )["0:conv2d"]
    with torch.no_grad():
        first, second = net[0](x), net[1](net[0](x))

    def norm(value: torch.Tensor) -> torch.Tensor:
        return value.double().square().sum((0, 2, 3)).sqrt()

    one, two, head = (net.get_parameter(f"{i}.weight").detach().abs().double() for i in (0, 1, 3))
    read = second.flatten(1).double().square().sum(0).sqrt()
    expected = (one.flatten(1) * norm(x)).sum(1)
    expected += two.flatten(1).sum(1) * norm(first)
    expected += (head * read).sum(0).reshape(4, 4).sum(1)
    assert np.allclose(found, expected, rtol=1e-4)


def test_wanda_without_what_it_needs_is_refused(traced: Traced, channels: Channels) -> None:
    with pytest.raises(InvalidInput, match="'wanda' needs data"):
        importance(channels, "wanda", norms=input_norms(traced, []))
    with pytest.raises(InvalidInput, match="makes or reads the channels of 'conv:conv2d'"):
        importance(channels, "wanda", norms={"elsewhere": torch.ones(1)})


def test_scores_that_are_not_finite_are_refused(traced: Traced, channels: Channels) -> None:
    calls = [Call((torch.full((2, 3, 6, 6), torch.nan).double(),), {}, None)]
    for criterion in ("wanda", "hessian"):
        with pytest.raises(InvalidInput, match="channels of 'conv:conv2d' are not finite"):
            importance(
                channels,
                criterion,
                output_gradients(traced, calls, 0),
                norms=input_norms(traced, calls),
            )


def test_the_hessian_of_many_draws_is_gauss_newtons_diagonal(
    net: Net, traced: Traced, channels: Channels
) -> None:
    """Of one sample and one entry: half the square of weight times output's derivative."""
    x = torch.randn(1, 3, 6, 6).double()
    draws = (Call((x,), {}, None) for _ in range(1024))
    (found,) = importance(channels, "hessian", output_gradients(traced, draws, 0)).values()
    expected = torch.zeros(5).double()
    outputs = net(x)[0]
    for output in outputs:
        net.zero_grad()
        output.backward(retain_graph=True)
        for tensor, axis in ((net.conv.weight, 0), (net.conv.bias, 0), (net.norm.weight, 0),
                             (net.norm.bias, 0), (net.head.weight, 1)):  # fmt: skip
            assert tensor is not None
            assert tensor.grad is not None
            squares = (tensor.detach() * tensor.grad).square()
            expected += squares.movedim(axis, 0).reshape(5, -1).sum(1) / 2
    assert np.allclose(found, expected, rtol=0.2)


def test_batch_norm_without_one_is_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    channels = channel_groups(trace(model, (torch.randn(2, 3),)))
    with pytest.raises(InvalidInput, match="no normalisation scales the channels of '0:linear'"):
        importance(channels, "batch_norm")


def test_gradients_from_no_data_are_refused(channels: Channels) -> None:
    with pytest.raises(InvalidInput, match="'hessian' needs data"):
        importance(channels, "hessian", [])

"""Block by block: each block is trained by its own output, and a damaged copy recovers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from burnish.distill import Tap, reconstruct
from burnish.distill._blockwise import Reconstruction, reconstruction_loss
from burnish.errors import InvalidInput
from burnish.goal import Call
from tests.distill.small import QUICK, START, UNLABELLED, X, same_state, state, task

BLOCKS = ("first", "second", "head")


class Net(nn.Module):
    """Three blocks, with an activation between two of them that works in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16))
        self.relu = nn.ReLU(inplace=True)
        self.between = nn.Linear(16, 16)
        self.second = nn.Sequential(nn.Linear(16, 16), nn.Tanh())
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.second(self.between(self.relu(self.first(x)))))
        return found


def original() -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        net = Net()
        with torch.no_grad():
            for _ in range(20):
                net(torch.randn(64, 4))
    return net.eval()


def damaged() -> Net:
    net = original()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() > 1:
                parameter.copy_((parameter * 4).round() / 4)
    return net


def unlabelled() -> Any:
    return task(train=UNLABELLED, loss=None)


def test_the_loss_is_the_error_relative_to_the_teachers_power() -> None:
    generator = torch.Generator().manual_seed(0)
    one, two = (torch.randn(3, 4, generator=generator) for _ in range(2))
    pairs = list(zip(one.flatten().tolist(), two.flatten().tolist(), strict=True))
    expected = sum((a - b) ** 2 for a, b in pairs) / sum(b**2 for _, b in pairs)
    assert float(reconstruction_loss(one, two)) == pytest.approx(expected)
    assert float(reconstruction_loss(torch.zeros(2), torch.zeros(2))) == 0.0
    assert float(reconstruction_loss(one.half(), 1e4 * two.half())) == pytest.approx(1.0, rel=1e-2)


def test_each_part_is_the_error_of_what_its_block_gives() -> None:
    made = Reconstruction(damaged(), original(), unlabelled(), [Tap(name) for name in BLOCKS])
    with torch.no_grad():
        parts = made(damaged(), Call((X,), {}, None), START)
    mine, theirs = damaged(), original()
    with torch.no_grad():
        a, b = mine.first(X), theirs.first(X)
        expected = {"first": reconstruction_loss(a, b)}
        a, b = (net.second(net.between(one.relu())) for net, one in ((mine, a), (theirs, b)))
        expected["second"] = reconstruction_loss(a, b)
        expected["head"] = reconstruction_loss(mine.head(a), theirs.head(b))
    for name in BLOCKS:
        assert float(parts[name]) == pytest.approx(float(expected[name]), rel=1e-5)


def test_a_block_takes_gradients_from_its_own_output_alone() -> None:
    made = Reconstruction(damaged(), original(), unlabelled(), [Tap(name) for name in BLOCKS])
    net = damaged()
    parts = made(net, Call((X,), {}, None), START)
    names = [name for name, _ in net.named_parameters()]
    for part, owners in (
        ("first", {"first"}),
        ("second", {"between", "second"}),
        ("head", {"head"}),
    ):
        found = torch.autograd.grad(
            parts[part], list(net.parameters()), retain_graph=True, allow_unused=True
        )
        reached = {name.split(".")[0] for name, one in zip(names, found, strict=True)
                   if one is not None}  # fmt: skip
        assert reached == owners


def test_a_damaged_copy_recovers() -> None:
    with torch.no_grad():
        wanted = original()(X)
        before = float(reconstruction_loss(damaged()(X), wanted))
    mine, theirs = damaged(), original()
    kept = state(mine), state(theirs)
    fitted = reconstruct(mine, theirs, unlabelled(), BLOCKS, epochs=20, learning_rate=0.01)
    assert same_state(kept[0], state(mine))
    assert same_state(kept[1], state(theirs))
    with torch.no_grad():
        assert float(reconstruction_loss(fitted.model(X), wanted)) < 0.2 * before
    assert list(fitted.record.epochs[0].parts) == list(BLOCKS)


def test_recurrent_blocks_are_tapped_where_their_samples_lie() -> None:
    class Recurrent(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.lstm = nn.LSTM(1, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.lstm(x.T.unsqueeze(2))[0].sum(0)
            return found

    with torch.random.fork_rng(devices=[]):
        one, two = Recurrent(0), Recurrent(1)
    fitted = reconstruct(
        one, two, unlabelled(), (Tap("lstm", batch_axis=1),), epochs=5, learning_rate=0.02
    )
    first, last = (fitted.record.epochs[i].parts["lstm"] for i in (0, -1))
    assert last < first


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ((), "at least one block"),
        (("first", "first.0"), "'first.0' lies inside the block 'first'"),
        (("first", "first"), "named twice"),
        (("frist",), "no layer 'frist'; near are 'first'"),
    ],
)
def test_blocks_that_cannot_be(blocks: tuple[str, ...], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        reconstruct(damaged(), original(), unlabelled(), blocks, **QUICK)


def test_blocks_of_another_shape_and_frozen_ones() -> None:
    thin = Net()
    thin.first = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    thin.between = nn.Linear(8, 16)
    with pytest.raises(InvalidInput, match=r"block first: the student gives \[4, 8\]"):
        reconstruct(thin, original(), unlabelled(), BLOCKS, **QUICK)
    stuck = damaged()
    stuck.second.requires_grad_(False)
    stuck.between.requires_grad_(False)
    with pytest.raises(InvalidInput, match="'second' of the student gives nothing"):
        reconstruct(stuck, original(), unlabelled(), BLOCKS, **QUICK)

"""Shallower and thinner copies of a teacher, and what is told about their tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from burnish.distill import Student, make_student
from burnish.errors import InvalidInput, NoEffect


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + F.relu(self.norm(self.conv(x)))


class Net(nn.Module):
    """A stem, residual blocks and a head."""

    def __init__(self, depth: int = 5, width: int = 8, classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.stage = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(3)])
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stage(self.stem(x)).mean((2, 3))
        for layer in self.layers:
            x = F.relu(layer(x))
        logits: torch.Tensor = self.head(x)
        return logits


X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def made(whole: nn.Module, **settings: Any) -> Any:
    return make_student(whole, **settings)


def teacher() -> Any:
    torch.manual_seed(1)
    net: Any = Net()
    for block in net.stage:
        nn.init.normal_(block.norm.running_mean)
    return net.eval()


@pytest.mark.parametrize(
    ("kept", "blocks"),
    [(3, [0, 2, 4]), (2, [0, 4]), (1, [0]), (4, [0, 1, 3, 4]), ([1, 2], [1, 2])],
)
def test_a_shallower_student_is_the_teacher_without_some_blocks(kept: Any, blocks: list[int]):
    whole = teacher()
    state = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    found = made(whole, layers={"stage": kept})
    wanted = teacher()
    wanted.stage = nn.Sequential(*(wanted.stage[index] for index in blocks))
    with torch.no_grad():
        assert torch.equal(found.model(X), wanted(X))
    assert not found.model.training
    assert not found.fresh
    assert not found.cut
    gone = [index for index in range(5) if index not in blocks]
    assert {name.split(".")[1] for name in found.dropped} == {str(index) for index in gone}
    assert len(found.dropped) == 7 * len(gone)
    assert len(found.taken) + len(found.dropped) == len(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in whole.state_dict().items())


def test_several_containers_of_either_kind_are_cut() -> None:
    found = made(teacher(), layers={"stage": 2, "layers": [2]})
    assert (len(found.model.stage), len(found.model.layers)) == (2, 1)
    assert torch.equal(found.model.layers[0].weight, teacher().layers[2].weight)
    assert found.model(X).shape == (2, 4)


def test_a_student_trains_without_touching_its_teacher() -> None:
    whole = teacher()
    found = made(whole, layers={"stage": 2})
    found.model(X).sum().backward()
    assert all(parameter.grad is None for parameter in whole.parameters())
    with torch.no_grad():
        found.model.head.weight.zero_()
    assert whole.head.weight.any()


def test_a_thinner_student_takes_leading_slices() -> None:
    whole = teacher()
    torch.manual_seed(9)
    like = Net(depth=5, width=6)
    found = made(whole, like=like)
    torch.testing.assert_close(found.model.stem.weight, whole.stem.weight[:6])
    conv = found.model.stage[3].conv
    torch.testing.assert_close(conv.weight, whole.stage[3].conv.weight[:6, :6])
    mean = found.model.stage[3].norm.running_mean
    torch.testing.assert_close(mean, whole.stage[3].norm.running_mean[:6])
    assert found.cut["head.weight"] == ((4, 6), (4, 8))
    assert "head.bias" in found.taken
    assert not found.dropped
    assert found.model is not like
    assert not torch.equal(like.stem.weight, found.model.stem.weight)


def test_blocks_of_a_thinner_and_shallower_student_come_from_where_they_are_said_to() -> None:
    whole = teacher()
    found = made(whole, like=Net(depth=2, width=6), layers={"stage": [1, 4]})
    for mine, its in ((0, 1), (1, 4)):
        wanted = whole.stage[its].conv.weight[:6, :6]
        torch.testing.assert_close(found.model.stage[mine].conv.weight, wanted)
    assert {name.split(".")[1] for name in found.dropped} == {"0", "2", "3"}


def test_what_has_no_counterpart_is_told() -> None:
    like = Net(depth=5, width=8, classes=9)
    like.extra = nn.Linear(2, 2)
    found = made(teacher(), like=like)
    assert found.fresh == ("head.weight", "head.bias", "extra.weight", "extra.bias")
    assert found.dropped == ("head.weight", "head.bias")
    assert torch.equal(found.model.head.weight, like.head.weight)
    told = str(found)
    assert "4 without a counterpart, as they were: head.weight, head.bias, extra.weight" in told
    assert "2 of the teacher dropped: head.weight, head.bias" in told
    assert isinstance(found, Student)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "needs layers=.*, like=a thinner network, or both"),
        ({"layers": {}}, "needs layers="),
        ({"layers": {"stages": 2}}, "no layer 'stages'; near are 'stage'"),
        ({"layers": {"stem": 2}}, "'stem' is a Conv2d, no .* are 'stage', 'layers'"),
        ({"layers": {"stage": 6}}, r"'stage': 6}\): from 1 to the 5 blocks there are"),
        ({"layers": {"stage": 0}}, "from 1 to the 5 blocks"),
        ({"layers": {"stage": [0, 5]}}, "different blocks from 0 to 4, in rising order"),
        ({"layers": {"stage": [2, 1]}}, "in rising order"),
        ({"layers": {"stage": []}}, "different blocks from 0 to 4"),
        ({"layers": {"stage": 2.5}}, "a number of blocks, or a list of them"),
        ({"like": nn.Linear(2, 2)}, "no tensor of `like` has a counterpart"),
        ({"like": Net(3), "layers": {"stage": 2}}, "keeps 2 blocks of 'stage', and that of `like`"),
    ],
)
def test_what_cannot_be_made_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        make_student(teacher(), **settings)


def test_containers_inside_one_another_are_refused() -> None:
    whole = nn.Sequential(nn.Sequential(nn.ReLU(), nn.ReLU()), nn.Linear(2, 2))
    model = nn.Module()
    model.outer = whole
    with pytest.raises(InvalidInput, match=r"'outer' and 'outer\.0' inside it"):
        make_student(model, layers={"outer": 1, "outer.0": 1})


def test_keeping_every_block_is_no_student() -> None:
    with pytest.raises(NoEffect, match="keeps every block of stage: that is the teacher"):
        make_student(teacher(), layers={"stage": 5})

"""A task that a teacher solves and a student has yet to learn: points in four dimensions, three
classes, all of them as the teacher says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from burnish.goal import Inputs, Task
from burnish.metrics import top1
from burnish.train import Moment

CLASSES = 3
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(96, 4, generator=GENERATOR)
EXAMPLE = Inputs(X[:2])
START = Moment(progress=0.0, epoch=0, step=0, batch=0, draw=0)
QUICK: dict[str, Any] = {"epochs": 2, "learning_rate": 0.01}


def network(width: int, seed: int, *, extras: bool = False) -> nn.Sequential:
    """A perceptron in eval mode; with `extras`, batch-norm and dropout behind its first layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        between = [nn.BatchNorm1d(width), nn.Dropout(0.5)] if extras else []
        return nn.Sequential(
            nn.Linear(4, width), *between, nn.ReLU(), nn.Linear(width, CLASSES)
        ).eval()


def teacher() -> nn.Sequential:
    """Decided about each point: its logits are spread wide."""
    return sharpened(network(16, 1), 8.0)


def sharpened(net: nn.Sequential, factor: float) -> nn.Sequential:
    """With the weights of its last layer multiplied."""
    with torch.no_grad():
        net.get_parameter(f"{len(net) - 1}.weight").mul_(factor)
    return net


def student() -> nn.Sequential:
    """Half as wide, untrained."""
    return network(8, 2)


with torch.no_grad():
    Y = teacher()(X).argmax(1)
BATCHES = [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 96, 16)]
UNLABELLED = [x for x, _ in BATCHES]


def task(**changes: Any) -> Task:
    """Cross-entropy on the labelled points unless told otherwise."""
    parts = {"train": BATCHES, "loss": F.cross_entropy, **changes}
    return Task(EXAMPLE, top1, **parts)


def agreement(model: nn.Module) -> float:
    """The share of points that a model classifies as the teacher does."""
    with torch.no_grad():
        return float((model(X).argmax(1) == Y).float().mean())


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all that a model remembers."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_state(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


class Drawn:
    """Batches made anew in each pass by `draw(number)`."""

    def __init__(self, draw: Callable[[int], Any], num: int = 3) -> None:
        self.draw = draw
        self.num = num

    def __len__(self) -> int:
        return self.num

    def __iter__(self) -> Iterator[Any]:
        return (self.draw(number) for number in range(self.num))

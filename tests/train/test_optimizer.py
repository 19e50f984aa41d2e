"""Optimizers: by name, by class, by function; what holds parameters already is refused."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import nn

from burnish.errors import InvalidInput
from burnish.train import fit
from tests.train.small import BATCHES, network, plain, same, task


def trained(optimizer: Any, **settings: Any) -> nn.Module:
    given: dict[str, Any] = {"epochs": 1, "learning_rate": 0.05, "schedule": "constant", **settings}
    return fit(plain(), task(), optimizer=optimizer, **given).model


def test_a_class_a_partial_and_a_function_make_the_same() -> None:
    by_name = trained("adamw", weight_decay=0.0)
    by_class = trained(torch.optim.AdamW, weight_decay=0.0)
    by_partial = trained(functools.partial(torch.optim.AdamW, amsgrad=False), weight_decay=0.0)
    by_function = trained(lambda groups, lr: torch.optim.AdamW(groups, lr=lr), weight_decay=0.0)
    assert same(by_name, by_class)
    assert same(by_name, by_partial)
    assert same(by_name, by_function)
    assert not same(by_name, trained(torch.optim.RMSprop, weight_decay=0.0))


def test_only_matrices_decay() -> None:
    groups: list[Any] = []

    def look(given: Any, lr: float) -> torch.optim.Optimizer:
        groups.extend(given)
        return torch.optim.SGD(given, lr=lr)

    fit(network(), task(), epochs=1, learning_rate=0.1, optimizer=look, weight_decay=0.3)
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert [[list(p.shape) for p in group["params"]] for group in groups] == [
        [[16, 2], [2, 16]],
        [[16], [16], [16], [2]],
    ]


def test_a_model_of_vectors_only_trains() -> None:
    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.by = nn.Parameter(torch.zeros(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.by

    moved = fit(Shift(), task(train=BATCHES[:1]), epochs=1, learning_rate=0.1).model
    assert not torch.equal(moved.state_dict()["by"], torch.zeros(2))


def test_an_optimizer_that_holds_parameters_is_refused() -> None:
    ready = torch.optim.SGD(plain().parameters(), lr=0.1)
    with pytest.raises(InvalidInput, match="an SGD that holds parameters already"):
        trained(ready)
    with pytest.raises(InvalidInput, match=r"returned a list: a torch\.optim"):
        trained(lambda groups, lr: groups)

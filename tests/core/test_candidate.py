"""Candidates, their history and its JSON form."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import nn

from burnish.core import Applied, Candidate, Choices, model_hash, tensor_hash
from burnish.errors import Damaged
from burnish.goal import Measurement

MEASURED = Measurement("top1", 0.9, "share", 0.8, 0.95, 100, "cpu", "machine")


def _choices(value: float = 1.0) -> Choices:
    plan = {"conv1:conv2d": {"scale": 0.1, "kept": [0, 2]}, "note": None}
    tensors = {
        "conv1:conv2d.bias": torch.tensor([value, -2.0]),
        "codes": torch.tensor([[1, -8]], dtype=torch.int8),
        "scalar": torch.tensor(value, dtype=torch.bfloat16),
        "none": torch.zeros(0, 3),
        "mask": torch.tensor([True, False]),
    }
    return Choices(plan, tensors)


def _applied(value: float = 1.0, **settings: Any) -> Applied:
    return Applied("Toy", {"ratio": 0.3, **settings}, _choices(value))


def _by_hash(choices: Choices) -> dict[str, torch.Tensor]:
    return {tensor_hash(tensor): tensor for tensor in choices.tensors.values()}


def test_choices_survive_json() -> None:
    choices = _choices()
    data = json.loads(json.dumps(choices.to_json()))
    back = Choices.from_json(data, _by_hash(choices))
    assert back.plan == choices.plan
    assert back.tensors.keys() == choices.tensors.keys()
    for name, tensor in choices.tensors.items():
        assert back.tensors[name].dtype == tensor.dtype
        assert torch.equal(back.tensors[name], tensor)
    assert back.to_json() == choices.to_json()


def test_applied_survives_json() -> None:
    applied = _applied(names=("a", "b"))
    data = json.loads(json.dumps(applied.to_json()))
    back = Applied.from_json(data, _by_hash(applied.choices))
    assert (back.step, back.settings["names"]) == ("Toy", ["a", "b"])
    assert back.to_json() == data


def test_a_missing_or_altered_tensor_is_named() -> None:
    choices = _choices()
    tensors = _by_hash(choices)
    key = tensor_hash(choices.tensors["codes"])
    with pytest.raises(Damaged, match=r"'codes'.*missing"):
        Choices.from_json(choices.to_json(), {k: t for k, t in tensors.items() if k != key})
    with pytest.raises(Damaged, match=r"'codes'.*altered"):
        Choices.from_json(choices.to_json(), {**tensors, key: torch.zeros(1, 2)})


def test_after_appends_to_the_history_and_forgets_measurements() -> None:
    first = Candidate(nn.Linear(2, 2)).measured(MEASURED)
    second = first.after(nn.Linear(2, 2), _applied())
    third = second.after(nn.Linear(2, 2), _applied(2.0))
    assert first.measurements == (MEASURED,)
    assert first.history == ()
    assert second.measurements == ()
    assert [len(c.history) for c in (second, third)] == [1, 2]
    assert third.history[0] is second.history[0]


def test_measured_keeps_everything_else() -> None:
    candidate = Candidate(nn.Identity()).after(nn.Identity(), _applied())
    more = candidate.measured(MEASURED).measured(MEASURED)
    assert candidate.measurements == ()
    assert more.measurements == (MEASURED, MEASURED)
    assert more.model is candidate.model
    assert more.key() == candidate.key()


def test_the_key_is_of_the_history_alone_and_stable() -> None:
    def key(*history: Applied) -> str:
        return Candidate(nn.Linear(1, 1), history).key()

    # Written out: folders of candidates are named by it.
    assert key() == "71857576257465c7"
    assert key(_applied()) == "2f77ef2142015e82"
    assert key(_applied()) == key(_applied())
    keys = {
        key(),
        key(_applied()),
        key(_applied(2.0)),
        key(_applied(ratio=0.4)),
        key(_applied(), _applied()),
        key(Applied("Other", {"ratio": 0.3}, _choices())),
        key(Applied("Toy", {"ratio": 0.3}, Choices({"other": 1}, _choices().tensors))),
    }
    assert len(keys) == 7


def test_the_key_does_not_see_the_order_of_names_or_a_round_trip() -> None:
    one = Applied("Toy", {"a": 1, "b": (2, 3)}, Choices({"x": 1, "y": 2}))
    other = Applied("Toy", {"b": [2, 3], "a": 1}, Choices(MappingProxyType({"y": 2, "x": 1})))
    again = Applied.from_json(json.loads(json.dumps(one.to_json())), {})
    keys = {Candidate(nn.Identity(), (applied,)).key() for applied in (one, other, again)}
    assert len(keys) == 1


def test_values_are_frozen_and_compared_by_identity() -> None:
    candidate = Candidate(nn.Identity(), (_applied(),))
    with pytest.raises(FrozenInstanceError):
        candidate.history = ()  # type: ignore[misc]
    assert candidate == candidate
    assert candidate != Candidate(candidate.model, candidate.history)
    assert len({candidate, candidate, _choices(), _applied()}) == 3


def test_tensor_hash_sees_dtype_shape_and_bytes_not_layout() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    same = [x.clone(), x.t().contiguous().t(), x.clone().requires_grad_()]
    assert {tensor_hash(t) for t in same} == {tensor_hash(x)}
    others = [x, x + 1, x.reshape(3, 2), x.reshape(6), x.double(), x.int(), x.view(torch.int32)]
    assert len({tensor_hash(t) for t in others}) == len(others)


def test_model_hash_sees_class_and_values() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    before = model_hash(model)
    assert model_hash(model.eval()) == before
    assert model_hash(nn.ModuleList(model)) != before
    statistics = model[1].running_mean
    assert isinstance(statistics, torch.Tensor)
    statistics.add_(1)
    assert model_hash(model) != before

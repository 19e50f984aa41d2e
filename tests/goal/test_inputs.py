"""The example call: keys, axes, resizing, and what is refused."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from burnish.errors import InvalidInput
from burnish.goal import Inputs

Pair = namedtuple("Pair", "first second")


@dataclass
class Boxed:
    x: torch.Tensor


def _axes(inputs: Inputs) -> dict[str, dict[int, str]]:
    return {leaf.key: dict(leaf.axes) for leaf in inputs.leaves()}


def test_a_tensor_may_be_given_bare() -> None:
    x = torch.zeros(3, 4)
    inputs = Inputs(x)
    assert inputs.args == (x,)
    assert _axes(inputs) == {"0": {0: "batch"}}
    assert inputs.batch_size() == 3


def test_keys_are_paths_and_keywords_are_sorted() -> None:
    t = torch.zeros(2)
    inputs = Inputs((t, [t, {"b": t, "a": t}], Pair(t, None)), {"z": t, "m": (t, t)})
    assert list(_axes(inputs)) == ["0", "1.0", "1.1.a", "1.1.b", "2.0", "m.0", "m.1", "z"]


def test_the_order_keywords_are_written_in_does_not_matter() -> None:
    a, b = torch.zeros(2), torch.ones(2)
    one, other = Inputs(kwargs={"a": a, "b": b}), Inputs(kwargs=OrderedDict(b=b, a=a))
    for left, right in zip(one.leaves(), other.leaves(), strict=True):
        assert left.key == right.key
        assert left.tensor is right.tensor


def test_batch_axis_per_leaf_none_and_negative() -> None:
    inputs = Inputs(
        (torch.zeros(7, 2, 6), (torch.zeros(1, 2, 8), torch.zeros(1, 2, 8))),
        {"scale": torch.tensor(2.0), "mask": torch.zeros(2, 7)},
        batch_axis={"0": 1, "1": -2, "1.1": 1, "scale": None},
        dynamic={"0": {0: "time"}, "mask": {-1: "time"}},
    )
    assert _axes(inputs) == {
        "0": {0: "time", 1: "batch"},
        "1.0": {1: "batch"},
        "1.1": {1: "batch"},
        "mask": {0: "batch", 1: "time"},
        "scale": {},
    }
    assert inputs.batch_size() == 2


def test_no_batch_at_all() -> None:
    inputs = Inputs(torch.zeros(5, 4), batch_axis=None)
    assert _axes(inputs) == {"0": {}}
    assert inputs.batch_size() == 1
    assert inputs.resized(8).args[0].shape == (5, 4)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda x: Inputs(), "no tensor"),
        (lambda x: Inputs((), {"flag": True}), "no tensor"),
        (lambda x: Inputs(np.zeros(3)), "ndarray.*from_numpy"),
        (lambda x: Inputs((x, Boxed(x))), "'1' is a Boxed.*wrap the model"),
        (lambda x: Inputs((x,), {"kinds": {1, 2}}), "'kinds' is a set"),
        (lambda x: Inputs(x, batch_axis={"y": 1}), "batch_axis.*'y'.*it has '0'"),
        (lambda x: Inputs(x, dynamic={"mask": {1: "length"}}), "dynamic.*'mask'.*it has '0'"),
        (lambda x: Inputs(x, batch_axis=2), "axis 2 .batch. of input '0' does not exist"),
        (lambda x: Inputs(x, batch_axis=-3), "axis -3 .batch. of input '0' does not exist"),
        (lambda x: Inputs(x, dynamic={"0": {5: "length"}}), r"axis 5 \(length\)"),
        (lambda x: Inputs(x, dynamic={"0": {0: "length"}}), "'length'.*'batch'.*one name"),
        (lambda x: Inputs(x, dynamic={"0": {1: "batch"}}), "batch is said with batch_axis"),
        (lambda x: Inputs((x, torch.zeros(4, 3))), "'batch' has size 4 in input '1' and 2"),
        (
            lambda x: Inputs((x, x.T), batch_axis=0, dynamic={"0": {1: "a"}, "1": {1: "a"}}),
            "one name have one size",
        ),
        (lambda x: Inputs(torch.tensor(1.0)), r"shape is \(\).*None. for a tensor without a batch"),
        (lambda x: Inputs(torch.zeros(0, 3)), "no element"),
    ],
)
def test_refused_by_name(make: Callable[[torch.Tensor], Inputs], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        make(torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"batch_axis": "0"}, "batch_axis='0'"),
        ({"batch_axis": {"0": "1"}}, "batch_axis="),
        ({"dynamic": {"0": "length"}}, "give .axis: name."),
        ({"dynamic": {"0": {"1": "length"}}}, "give .axis: name."),
        ({"dynamic": {"0": {1: 2}}}, "give .axis: name."),
    ],
)
def test_settings_of_the_wrong_kind(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        Inputs(torch.zeros(2, 3), **settings)


def test_resized_repeats_and_cuts_along_each_batch_axis() -> None:
    inputs = Inputs(
        (torch.arange(6.0).reshape(2, 3), [torch.arange(2).reshape(1, 2)]),
        {"flag": True, "table": torch.ones(4), "b": torch.tensor([True, False])},
        batch_axis={"1": 1, "table": None},
    )
    bigger = inputs.resized(5)
    assert bigger.batch_size() == 5
    assert bigger.args[0][:, 0].tolist() == [0, 3, 0, 3, 0]
    assert bigger.args[1][0].tolist() == [[0, 1, 0, 1, 0]]
    assert bigger.kwargs["b"].tolist() == [True, False, True, False, True]
    assert bigger.kwargs["table"] is inputs.kwargs["table"]
    assert bigger.kwargs["flag"] is True
    one = bigger.resized(1)
    assert torch.equal(one.args[0], inputs.args[0][:1])
    assert inputs.args[0].shape == (2, 3)


def test_resized_keeps_dtypes_axes_and_containers() -> None:
    x = torch.zeros(2, 3, dtype=torch.bfloat16)
    inputs = Inputs((Pair(x, x),), {"d": {"z": x, "a": x + 1}}, dynamic={"0": {1: "length"}})
    again = inputs.resized(3)
    assert isinstance(again.args[0], Pair)
    assert list(again.kwargs["d"]) == ["z", "a"]
    assert torch.equal(again.kwargs["d"]["a"], torch.ones(3, 3, dtype=torch.bfloat16))
    assert _axes(again) == _axes(inputs)


def test_resized_refuses_no_sample() -> None:
    with pytest.raises(InvalidInput, match="at least one"):
        Inputs(torch.zeros(2, 3)).resized(0)


def test_inputs_can_be_compared_and_hashed() -> None:
    x = torch.zeros(2, 3)
    one: Any = Inputs(x)
    assert one == one
    assert one != Inputs(x)
    assert len({one, one}) == 1


def test_constants_are_what_is_no_tensor() -> None:
    inputs = Inputs((torch.zeros(2), 3), {"mask": None, "mode": "fast", "deep": {"k": [1.5]}})
    assert inputs.constants() == {"1": 3, "deep.k.0": 1.5, "mask": None, "mode": "fast"}

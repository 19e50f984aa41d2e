"""Outputs taken apart and built again."""

from __future__ import annotations

import json
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from burnish.errors import Unsupported
from burnish.graph import Record, describe_call, flatten, flatten_call, unflatten
from burnish.graph._call import build_call, example_call
from burnish.graph._tree import tensor_keys, tensor_names, unique_names

Pair = namedtuple("Pair", "first second")


@dataclass(frozen=True)
class Frozen:
    value: Any
    other: Any = None


LEAF = st.one_of(
    st.builds(lambda n: torch.tensor(float(n)), st.integers(0, 9)),
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.text("ab", max_size=2),
)
KEY = st.text("abc_.0 ", max_size=3)
VALUE = st.recursive(
    LEAF,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEY, inner, max_size=3),
        st.builds(Pair, inner, inner),
        st.builds(Frozen, inner, inner),
    ),
    max_leaves=8,
)


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return left is right
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(_same(left[k], right[k]) for k in left)
    if isinstance(left, Frozen):
        return _same(left.value, right.value) and _same(left.other, right.other)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)


@given(VALUE)
def test_round_trip(value: Any) -> None:
    tensors, tree = flatten(value)
    assert _same(unflatten(json.loads(json.dumps(tree)), tensors), value)
    assert len(tensor_keys(tree)) == len(tensors)
    names = tensor_names(tree, taken=("a", "output"))
    assert len(names) == len(tensors)
    assert len({*names, "a", "output"}) == len(tensors) + 2
    assert all(names)


def test_a_bare_tensor_is_called_output() -> None:
    assert tensor_names(flatten(torch.zeros(1))[1]) == ["output"]
    assert tensor_names(flatten((torch.zeros(1), torch.zeros(1)))[1]) == ["output_0", "output_1"]


@given(st.lists(st.sampled_from(["x", "x_2", "x_2_2", "y"]), max_size=6), st.booleans())
def test_unique_names_keep_those_that_are_unique(names: list[str], taken: bool) -> None:
    blocked = ["x"] if taken else []
    result = unique_names(names, blocked)
    assert len({*result, *blocked}) == len(names) + len(blocked)
    for name, new in zip(names, result, strict=True):
        assert new.startswith(name)
        if names.count(name) == 1 and name not in blocked:
            assert new == name


def test_ordered_dicts_come_back_as_dicts() -> None:
    value = OrderedDict(b=torch.zeros(1), a=torch.ones(1))
    back = unflatten(flatten(value)[1], list(value.values()))
    assert list(back) == ["b", "a"]


def test_numpy_arrays_fill_a_tree_too() -> None:
    _, tree = flatten({"a": torch.zeros(2), "n": 3})
    back = unflatten(tree, [np.ones(2)])
    assert back["a"].sum() == 2
    assert back["n"] == 3


def test_a_class_this_process_has_not_seen_becomes_a_record() -> None:
    _, tree = flatten(Frozen(torch.zeros(1), 4))
    tree = json.loads(json.dumps(tree).replace("Frozen", "Gone"))
    back = unflatten(tree, ["tensor"])
    assert isinstance(back, Record)
    assert (back.value, back.other) == ("tensor", 4)


@pytest.mark.parametrize("value", [{1: torch.zeros(1)}, {None: 1}, {("a",): 1}])
def test_keys_must_be_strings(value: Any) -> None:
    with pytest.raises(Unsupported, match="keys must be strings"):
        flatten(value)


def test_too_many_tensors_are_our_mistake() -> None:
    with pytest.raises(AssertionError):
        unflatten(flatten(torch.zeros(1))[1], [1, 2])


def test_a_call_is_described_as_json_and_built_again() -> None:
    x, m = torch.zeros(2, 3), torch.zeros(2, 5, dtype=torch.bool)
    args, kwargs = (x, [x, (m, 7)]), {"z": {"b": x, "a": m}, "flag": True, "mask": None}
    call = describe_call(args, kwargs, {"0": {0: "batch", 1: "width"}})
    assert json.loads(json.dumps(call)) == call
    assert call["leaves"][0] == {
        "key": "0",
        "dtype": "float32",
        "shape": [2, 3],
        "axes": {"0": "batch", "1": "width"},
    }
    assert [leaf["key"] for leaf in call["leaves"]] == ["0", "1.0", "1.1.0", "z.a", "z.b"]
    flat = flatten_call(args, kwargs)
    built, named = build_call(json.loads(json.dumps(call)), flat)
    assert _same(built, args)
    assert _same(named, kwargs)
    zeros, more = example_call(call)
    assert [(t.shape, t.dtype) for t in flatten_call(zeros, more)] == [
        (t.shape, t.dtype) for t in flat
    ]
    assert more["flag"] is True


def test_the_default_axis_is_the_batch_where_there_is_one() -> None:
    call = describe_call((torch.zeros(2, 3), torch.tensor(1.0)), {})
    assert [leaf["axes"] for leaf in call["leaves"]] == [{"0": "batch"}, {}]

"""Taking batches apart: the guess, `unpack`, and what is refused."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from burnish.errors import InvalidInput
from burnish.goal import Inputs, Task
from burnish.metrics import Metric, top1

X, Y, MASK = torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), torch.ones(4, 3)
IDS = torch.ones(4, 6, dtype=torch.int64)


def _task(inputs: Any = None, **settings: Any) -> Task:
    return Task(X if inputs is None else inputs, top1, **settings)


def _words() -> Inputs:
    return Inputs(kwargs={"input_ids": IDS, "attention_mask": IDS})


@pytest.mark.parametrize(
    ("inputs", "batch", "args", "kwargs", "target"),
    [
        (Inputs(X), X, (X,), {}, None),
        (Inputs(X), (X, Y), (X,), {}, Y),
        (Inputs(X), [X, Y], (X,), {}, Y),
        (Inputs(X), [X], (X,), {}, None),
        (Inputs(X), {"image": X, "label": Y}, (X,), {}, Y),
        (Inputs(X), UserDict(pixel_values=X, labels=Y), (X,), {}, Y),
        (Inputs((X, MASK)), (X, MASK, Y), (X, MASK), {}, Y),
        (Inputs((X, MASK)), [X, MASK], (X, MASK), {}, None),
        (Inputs(({"a": X, "b": MASK},)), ({"a": X, "b": MASK}, Y), ({"a": X, "b": MASK},), {}, Y),
        (Inputs({"a": X}), {"a": X, "extra": X, "label": Y}, ({"a": X},), {}, Y),
        (
            _words(),
            UserDict(attention_mask=IDS, labels=Y, input_ids=IDS, token_type_ids=IDS),
            (),
            {"input_ids": IDS, "attention_mask": IDS},
            Y,
        ),
        (
            _words(),
            ({"attention_mask": IDS, "input_ids": IDS}, Y),
            (),
            {"input_ids": IDS, "attention_mask": IDS},
            Y,
        ),
        (
            Inputs(kwargs={"x": X, "y": MASK}),
            {"x": X, "y": MASK, "target": Y},
            (),
            {"x": X, "y": MASK},
            Y,
        ),
        (Inputs(kwargs={"x": X, "y": MASK}), {"x": X, "y": MASK}, (), {"x": X, "y": MASK}, None),
        (Inputs(X, {"train": False}), (X, Y), (X,), {"train": False}, Y),
        (
            Inputs(kwargs={"x": X, "return_dict": False}),
            {"x": X, "labels": Y},
            (),
            {"x": X, "return_dict": False},
            Y,
        ),
    ],
)
def test_the_guess(
    inputs: Inputs, batch: Any, args: tuple[Any, ...], kwargs: dict[str, Any], target: Any
) -> None:
    call = _task(inputs).call(batch)
    assert _same(call.args, args)
    assert _same(dict(call.kwargs), kwargs)
    assert call.target is target


def _same(left: Any, right: Any) -> bool:
    """Equal containers that hold the very same tensors."""
    if isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[k], right[k]) for k in right)
    if isinstance(right, tuple):
        return len(left) == len(right) and all(map(_same, left, right))
    return left is right


@pytest.mark.parametrize(
    ("inputs", "batch"),
    [
        (Inputs(X), (X, MASK, Y)),
        (Inputs(X), {"image": X, "id": Y, "mystery": X}),
        (Inputs((X, MASK)), {"second": MASK, "first": X, "label": Y}),
        (Inputs(X), "a string"),
        (Inputs(X), 3),
        (Inputs(X), None),
        (Inputs(X), np.zeros((4, 3))),
        (Inputs(X), (np.zeros((4, 3)), Y)),
        (_words(), (IDS, Y)),
        (_words(), {"input_ids": IDS, "labels": Y}),
        (Inputs(X, {"mask": MASK}), (X, MASK, Y)),
    ],
)
def test_what_cannot_be_told_apart_asks_for_unpack(inputs: Inputs, batch: Any) -> None:
    with pytest.raises(InvalidInput, match="unpack=") as caught:
        _task(inputs).call(batch)
    kind = type(batch).__name__ if batch is not None else "NoneType"
    assert kind in str(caught.value)


@pytest.mark.parametrize(
    ("inputs", "returned", "keys"),
    [
        (Inputs(X), X, ["0"]),
        (Inputs(X), (X,), ["0"]),
        (Inputs(X), [X], ["0"]),
        (Inputs((X, MASK)), [X, MASK], ["0", "1"]),
        (Inputs(([X, MASK],)), [X, MASK], ["0.0", "0.1"]),
        (Inputs({"a": X}), {"a": X}, ["0.a"]),
        (Inputs(kwargs={"a": X}), {"a": X}, ["a"]),
        (Inputs(X, {"mask": MASK}), Inputs(X, {"mask": MASK}), ["0", "mask"]),
    ],
)
def test_unpack_may_return_inputs_in_any_form(
    inputs: Inputs, returned: Any, keys: list[str]
) -> None:
    call = _task(inputs, unpack=lambda batch: (returned, Y)).call("anything")
    assert [leaf.key for leaf in inputs.bind(call.args, call.kwargs)] == keys
    assert call.target is Y


@pytest.mark.parametrize("nonsense", [None, X, (X,), (X, Y, Y), "xy", 5])
def test_unpack_must_return_a_pair(nonsense: Any) -> None:
    task = _task(unpack=lambda batch: nonsense)
    with pytest.raises(InvalidInput, match=r"pair \(inputs, target\)"):
        task.call((X, Y))


def test_an_unpack_that_raises_is_named_with_its_batch() -> None:
    task = _task(unpack=lambda batch: (batch["image"], batch["class"]))
    with pytest.raises(InvalidInput, match=r"unpack.*keys 'image'.*KeyError: 'class'") as caught:
        task.call({"image": X})
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    "exhausted",
    [
        lambda: (batch for batch in [(X, Y)]),
        lambda: iter([(X, Y)]),
        lambda: map(tuple, [(X, Y)]),
        lambda: zip([X], [Y], strict=True),
    ],
)
@pytest.mark.parametrize("split", ["calibration", "validation", "test", "train"])
def test_an_iterator_is_refused_before_any_work(exhausted: Callable[[], Any], split: str) -> None:
    with pytest.raises(InvalidInput, match=f"the {split} data.*iterated again.*DataLoader"):
        _task(**{split: exhausted()})


@pytest.mark.parametrize("data", [3, TensorDataset(X, Y), object()])
def test_data_that_is_no_iterable_is_refused(data: Any) -> None:
    with pytest.raises(InvalidInput, match=f"validation data is a {type(data).__name__}"):
        _task(validation=data)


def test_a_metric_must_be_a_metric() -> None:
    with pytest.raises(InvalidInput, match=r"metric=.*function.*burnish.metrics.Metric"):
        Task(X, lambda output, target: output)  # type: ignore[arg-type]


def test_a_dynamic_axis_of_size_1_is_refused_in_the_example_only() -> None:
    short = Inputs(torch.zeros(2, 1), dynamic={"0": {1: "length"}})
    with pytest.raises(InvalidInput, match=r"'length' has size 1.*2 or more"):
        _task(short)
    long = Inputs(torch.zeros(2, 4), dynamic={"0": {1: "length"}})
    assert _task(long, unpack=lambda b: (short, None)).call(None).args[0].shape == (2, 1)


def test_a_missing_split_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"needs test data.*Task\(test=…\)"):
        _task().data("test")


def test_calls_of_a_data_loader() -> None:
    loader = DataLoader(TensorDataset(X, Y), batch_size=3)
    task = _task(validation=loader)
    for _ in range(2):
        calls = list(task.calls("validation"))
        assert [len(call.target) for call in calls] == [3, 1]
        assert torch.equal(torch.cat([call.args[0] for call in calls]), X)


def test_tasks_can_be_compared() -> None:
    task = _task(validation=[(X, Y)])
    assert task == task
    assert task != _task(validation=[(X, Y)])


def test_a_bare_tuple_of_inputs() -> None:
    metric = Metric("zero", lambda output, target: torch.zeros(4), "continuous")
    assert len(Task((X, MASK), metric).inputs.leaves()) == 2

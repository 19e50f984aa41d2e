"""The pass over the data: whatever is unusable is found before any work and named."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from burnish.errors import InvalidInput
from burnish.goal import Goal, Inputs, Task
from burnish.metrics import top1

Batches = list[tuple[torch.Tensor, torch.Tensor]]


def _batches(num: int = 3, size: int = 4, seed: int = 0) -> Batches:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 3, 5, generator=generator), torch.zeros(size, dtype=torch.int64))
        for _ in range(num)
    ]


def _goal(inputs: Any = None, **splits: Any) -> Goal:
    return Goal(Task(torch.zeros(2, 3, 5) if inputs is None else inputs, top1, **splits))


class Once:
    """Looks re-iterable and hands out the same generator each time."""

    def __init__(self, batches: Batches) -> None:
        self._generator = (batch for batch in batches)

    def __iter__(self) -> Iterator[Any]:
        return self._generator


@pytest.mark.parametrize("split", ["calibration", "validation", "test", "train"])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda x: x.select(1, 0), r"batch 1: input '0' has shape \(4, 5\).*\(2, 3, 5\)"),
        (lambda x: x[:, :, :4], r"batch 1: input '0' has shape \(4, 3, 4\).*dynamic"),
        (lambda x: x[None], r"batch 1: input '0' has shape \(1, 4, 3, 5\)"),
        (lambda x: x.double(), r"batch 1: input '0' has dtype torch.float64.*torch.float32"),
        (lambda x: x.round().long(), r"batch 1: input '0' has dtype torch.int64"),
        (lambda x: x.index_fill(0, torch.tensor([3]), float("nan")), r"batch 1.*holds NaN"),
        (lambda x: x.index_fill(0, torch.tensor([0]), float("inf")), r"batch 1.*holds infinity"),
        (lambda x: x.index_fill(0, torch.tensor([0]), float("-inf")), r"batch 1.*holds infinity"),
        (lambda x: x[:0], r"batch 1.*no element"),
        (lambda x: torch.tensor(1.0), r"batch 1: input '0' has shape \(\)"),
        (lambda x: x.numpy(), r"batch 1: cannot tell.*ndarray.*unpack="),
    ],
)
def test_a_spoilt_batch_is_named(split: str, spoil: Any, said: str) -> None:
    batches: list[Any] = list(_batches())
    batches[1] = (spoil(batches[1][0]), batches[1][1])
    with pytest.raises(InvalidInput, match=f"{split} {said}"):
        _goal(**{split: batches}).census()


@pytest.mark.parametrize("split", ["calibration", "validation", "test", "train"])
@pytest.mark.parametrize(
    "empty", [[], DataLoader(TensorDataset(torch.zeros(0, 3, 5), torch.zeros(0)))]
)
def test_empty_data(split: str, empty: Iterable[Any]) -> None:
    with pytest.raises(InvalidInput, match=f"the {split} data is empty"):
        _goal(**{split: empty}).census()


@pytest.mark.parametrize("split", ["calibration", "validation"])
def test_data_that_can_be_passed_only_once(split: str) -> None:
    with pytest.raises(InvalidInput, match=f"the {split} data gave batches once and none"):
        _goal(**{split: Once(_batches())}).census()


def test_an_exhausted_iterable_counts_as_empty() -> None:
    once = Once(_batches())
    list(once)
    with pytest.raises(InvalidInput, match="the validation data is empty"):
        _goal(validation=once).census()


def test_what_is_counted() -> None:
    batches = [*_batches(2), *_batches(1, size=1, seed=5)]
    (census,) = _goal(validation=batches).census()
    assert (census.split, census.num_samples, census.num_batches) == ("validation", 9, 3)
    assert len(set(census.hashes)) == 9
    assert census.repeats


def test_the_same_samples_have_the_same_hashes_however_they_are_batched() -> None:
    x = torch.randn(6, 3, 5)
    hashes = [_goal(validation=list(x.split(size))).census()[0].hashes for size in (6, 4, 1)]
    assert hashes[0] == hashes[1] == hashes[2]
    strided = x.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert _goal(validation=[strided]).census()[0].hashes == hashes[0]


def test_one_changed_bit_is_another_sample() -> None:
    x = torch.randn(2, 3, 5)
    y = x.clone()
    y[1, 2, 4] = torch.nextafter(y[1, 2, 4], torch.tensor(9.0))
    before, after = (_goal(validation=[t]).census()[0].hashes for t in (x, y))
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_time_first_data_is_counted_along_its_batch_axis() -> None:
    inputs = Inputs(torch.zeros(7, 2, 3), batch_axis=1)
    x = torch.randn(7, 5, 3)
    (census,) = _goal(inputs, validation=[x]).census()
    assert census.num_samples == 5
    (batch_first,) = _goal(Inputs(torch.zeros(2, 7, 3)), validation=[x.transpose(0, 1)]).census()
    assert census.hashes == batch_first.hashes
    with pytest.raises(InvalidInput, match=r"shape \(5, 7, 3\)"):
        _goal(inputs, validation=[x.transpose(0, 1)]).census()


def test_inputs_without_a_batch_count_as_one_sample() -> None:
    inputs = Inputs(torch.zeros(3), batch_axis=None)
    (census,) = _goal(inputs, validation=[torch.ones(3), torch.zeros(3)]).census()
    assert census.num_samples == 2


def test_several_inputs_of_one_batch_must_agree_on_its_size() -> None:
    inputs = Inputs((torch.zeros(2, 3), torch.zeros(2, 4)))
    data = [(torch.zeros(5, 3), torch.zeros(4, 4))]
    with pytest.raises(InvalidInput, match="'batch' is 5 in input '0' and 4 in '1'"):
        _goal(inputs, validation=data).census()


def test_axes_of_one_name_must_agree_within_a_batch() -> None:
    ids = torch.ones(2, 6, dtype=torch.int64)
    axes = {1: "length"}
    inputs = Inputs(kwargs={"ids": ids, "mask": ids}, dynamic={"ids": axes, "mask": axes})
    good = {"ids": torch.arange(12).reshape(4, 3), "mask": torch.ones(4, 3, dtype=torch.int64)}
    (census,) = _goal(inputs, validation=[good]).census()
    assert census.num_samples == 4
    bad = {**good, "mask": torch.ones(4, 2, dtype=torch.int64)}
    with pytest.raises(InvalidInput, match="'length' is 3 in input 'ids' and 2 in 'mask'"):
        _goal(inputs, validation=[bad]).census()


@pytest.mark.parametrize(
    "dtype",
    [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.complex64],
)
def test_every_dtype_is_hashed(dtype: torch.dtype) -> None:
    x = torch.tensor([[0, 1], [1, 1], [0, 1]]).to(dtype)
    (census,) = _goal(x[:2], validation=[x]).census()
    assert census.num_samples == 3
    assert census.hashes[0] == census.hashes[2] != census.hashes[1]


def test_scalars_of_a_batch_are_samples() -> None:
    (census,) = _goal(torch.zeros(2), validation=[torch.arange(4.0)]).census()
    assert len(set(census.hashes)) == 4


def test_keyword_order_does_not_change_a_sample() -> None:
    a, b = torch.randn(2, 3), torch.randn(2, 3)
    inputs = Inputs(kwargs={"a": a, "b": b})
    unpacked = [
        Task(inputs, top1, validation=[order], unpack=lambda batch: (batch, None))
        for order in ({"a": a, "b": b}, {"b": b, "a": a})
    ]
    first, second = (Goal(task).census()[0].hashes for task in unpacked)
    assert first == second


def test_test_data_that_overlaps_validation_data_is_refused() -> None:
    validation, test = _batches(seed=1), _batches(seed=2)
    _goal(validation=validation, test=test).census()
    leaked = test[0][0].clone()
    leaked[2] = validation[1][0][3]
    with pytest.raises(InvalidInput, match="1 of 12 test samples are also in the validation data"):
        _goal(validation=validation, test=[(leaked, test[0][1]), *test[1:]]).census()
    with pytest.raises(InvalidInput, match="12 of 12 test samples"):
        _goal(validation=validation, test=validation).census()


def test_constants_of_the_call_may_not_change() -> None:
    inputs = Inputs(torch.zeros(2, 3), {"deep": True, "mask": None})
    Goal(
        Task(
            inputs,
            top1,
            validation=[1],
            unpack=lambda b: (Inputs(torch.ones(2, 3), {"deep": True}), 0),
        )
    ).census()
    other = Task(
        inputs,
        top1,
        validation=[1],
        unpack=lambda b: (Inputs(torch.ones(2, 3), {"deep": False}), 0),
    )
    with pytest.raises(InvalidInput, match="'deep' is False, and True in the example call"):
        Goal(other).census()


def test_an_unpack_of_nonsense_names_the_batch() -> None:
    task = Task(torch.zeros(2, 3), top1, validation=[0], unpack=lambda b: ("nonsense", 0))
    with pytest.raises(InvalidInput, match=r"validation batch 0.*\['0'\]"):
        Goal(task).census()


def _shuffled(x: torch.Tensor) -> Any:
    return DataLoader(TensorDataset(x, torch.zeros(len(x))), batch_size=16, shuffle=True)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_shuffled_data_cannot_be_compared_sample_by_sample(split: str) -> None:
    with pytest.raises(InvalidInput, match=f"the {split} data.*switch shuffling"):
        _goal(**{split: _shuffled(torch.randn(64, 3, 5))}).census()


@pytest.mark.parametrize("split", ["train", "calibration"])
def test_shuffled_data_to_train_or_calibrate_keeps_the_fingerprint(split: str) -> None:
    goal = _goal(**{split: _shuffled(torch.randn(64, 3, 5))})
    one, other = goal.census(), goal.census()
    assert one[0].hashes != other[0].hashes
    assert not one[0].repeats
    assert goal.fingerprint(one) == goal.fingerprint(other)


def test_hashes_are_stable_over_versions() -> None:
    """A run folder keeps them: this digest is written out on purpose."""
    x = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    (census,) = _goal(torch.zeros(2, 3), validation=[x]).census()
    expected = hashlib.blake2b(b"(3,)" + x[1].numpy().tobytes(), digest_size=12).hexdigest()
    assert census.hashes[1] == expected


def test_the_pass_can_be_watched() -> None:
    seen = []

    def watch(data: Iterable[Any], title: str) -> Iterable[Any]:
        seen.append(title)
        return data

    _goal(validation=_batches(), test=_batches(seed=3)).census(watch)
    assert seen == ["checking validation", "checking test"]

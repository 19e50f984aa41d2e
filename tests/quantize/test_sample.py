"""The samples kept whole: a fair choice, the same however the data come, and never many."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.quantize._calibration.sample import MOST, MOST_BYTES, Sample

FLAT = Sample((0,))


def of(*calls: torch.Tensor) -> Sample:
    sample = FLAT
    for call in calls:
        sample = sample.observe((call,))
    return sample


def values(sample: Sample) -> set[float]:
    """What the samples hold, of samples of one element."""
    return {float(x) for (call,) in sample.batches() for x in call.flatten()}


def assert_same(mine: Sample, theirs: Sample) -> None:
    assert [row.key for row in mine.rows] == [row.key for row in theirs.rows]
    assert mine.limit == theirs.limit


@given(
    num=st.integers(1, 400),
    size=st.integers(1, 60),
    cut=st.floats(0, 1),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_order_batches_and_halves_leave_no_trace(num: int, size: int, cut: float, seed) -> None:
    x = torch.randn(num, 2, generator=torch.Generator().manual_seed(seed))
    whole = of(x)
    at = int(cut * num)
    assert whole.num == min(num, MOST)
    assert_same(of(*x.split(size)), whole)
    assert_same(of(x.flip(0)), whole)
    assert_same(of(x[:at]).merged(of(x[at:])), whole)
    assert_same(of(x[at:]).merged(of(x[:at])), whole)


def test_all_of_little_data_is_kept_as_it_was() -> None:
    x = torch.arange(20.0)[:, None]
    assert values(of(x)) == set(range(20))
    assert [len(call) for (call,) in of(x).batches(8)] == [8, 8, 4]


@pytest.mark.parametrize("period", [2, 4, 8])
def test_sorted_and_alternating_classes_are_all_seen(period: int) -> None:
    """2,000 samples whose class is their number modulo the period, in that order and sorted."""
    number = torch.arange(2000)
    x = torch.stack([number % period, number], 1).float()
    for ordered in (x, x[x[:, 0].argsort(stable=True)]):
        kept = torch.cat([call for (call,) in of(*ordered.split(16)).batches()])
        counts = torch.bincount(kept[:, 0].long(), minlength=period).double()
        # Four standard deviations of a fair draw.
        assert (counts - MOST / period).abs().max() < 4 * (MOST / period) ** 0.5
        assert kept[:, 1].mean() == pytest.approx(1000, abs=4 * 577 / MOST**0.5)


def test_memory_is_bounded_in_number_and_in_bytes() -> None:
    large = [torch.full((1, 1 << 20), float(i)) for i in range(30)]  # 4 MB each
    sample = of(*large)
    assert sum(row.num_bytes for row in sample.rows) <= MOST_BYTES
    assert sample.num == MOST_BYTES >> 22
    assert_same(of(*large[15:]).merged(of(*large[:15])), sample)
    assert of(torch.zeros(1, (MOST_BYTES >> 2) + 1)).num == 1


def test_a_kept_sample_does_not_hold_its_batch() -> None:
    x = torch.randn(64, 10)
    assert all(row.tensors[0].untyped_storage().nbytes() == 40 for row in of(x).rows)


def test_equal_samples_count_once() -> None:
    assert of(torch.ones(50, 3)).num == 1


def test_inputs_with_and_without_a_batch_axis() -> None:
    """A batch axis that is not the first, and an input that goes whole into each call."""
    sample = Sample((1, None))
    mask = torch.tensor([1, 0, 1])
    sample = sample.observe((torch.arange(12.0).reshape(2, 6), mask))
    sample = sample.observe((torch.arange(12.0, 16.0).reshape(2, 2), mask + 1))
    assert sample.num == 8
    calls = list(sample.batches(4))
    assert sorted(call[0].shape[1] for call in calls) == [2, 2, 4]
    for x, known in calls:
        assert x.shape[0] == 2
        assert torch.equal(known, mask if float(x.max()) < 12 else mask + 1)
        step = 6 if float(x.max()) < 12 else 2
        assert torch.equal(x[1] - x[0], torch.full((x.shape[1],), float(step)))


def test_a_call_without_a_batch_axis_is_one_sample() -> None:
    sample = Sample((None,)).observe((torch.ones(3),)).observe((torch.zeros(3),))
    assert sample.num == 2
    assert [tuple(x.shape) for (x,) in sample.batches()] == [(3,), (3,)]


def test_lengths_do_not_mix_in_a_batch() -> None:
    sample = FLAT.observe((torch.ones(3, 5).cumsum(0),)).observe((torch.ones(2, 7).cumsum(0),))
    assert sorted(tuple(x.shape) for (x,) in sample.batches()) == [(2, 7), (3, 5)]


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.bfloat16, torch.float16])
def test_any_dtype_is_kept(dtype) -> None:
    x = torch.tensor([[0, 1], [1, 0]]).to(dtype)
    (kept,) = (call for (call,) in of(x).batches())
    assert kept.dtype == dtype
    assert sorted(map(tuple, kept.tolist())) == [(0, 1), (1, 0)]

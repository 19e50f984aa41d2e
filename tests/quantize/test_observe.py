"""Sketches: what was seen in parts is what was seen whole, and sampling costs little."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from burnish.quantize._calibration.observe import (
    NUM_BINS,
    PER_SAMPLE,
    THINNED,
    Histogram,
    _positions,
    channels,
    histogram,
    thinned,
)
from burnish.quantize._calibration.range import choose_range

# Values of one tensor: within 2^80 of one another, or zero. Beyond that float32 itself underflows.
FLOATS = st.builds(math.ldexp, st.integers(-(2**24), 2**24), st.integers(-50, 30))
PARTS = st.lists(st.lists(FLOATS, min_size=1, max_size=30), min_size=1, max_size=6)


def same(a: Histogram, b: Histogram) -> bool:
    ends = (a.exponent, a.low, a.high) == (b.exponent, b.low, b.high)
    return ends and np.array_equal(a.counts, b.counts)


def merged(parts: list[list[float]]) -> Histogram:
    result = histogram(torch.tensor(parts[0]))
    for part in parts[1:]:
        result = result.merged(histogram(torch.tensor(part)))
    return result


@given(PARTS, st.randoms(use_true_random=False))
def test_order_and_cuts_do_not_matter(parts, random) -> None:
    whole = histogram(torch.tensor([value for part in parts for value in part]))
    shuffled = list(parts)
    random.shuffle(shuffled)
    assert same(merged(parts), whole)
    assert same(merged(shuffled), whole)


@given(PARTS)
def test_counts_everything_between_the_ends(parts) -> None:
    values = np.array([value for part in parts for value in part], np.float32)
    seen = merged(parts)
    assert seen.counts.sum() == len(values)
    assert (seen.low, seen.high) == (values.min(), values.max())
    occupied = seen.centres()[np.flatnonzero(seen.counts)]
    slack = seen.width / 2 * (1 + 1e-6)
    assert occupied.min() - slack <= values.min()
    assert occupied.max() + slack >= values.max()
    assert np.abs(values).max() <= np.ldexp(1.0, seen.exponent)


def test_starting_with_wider_bins_is_the_same() -> None:
    """A running histogram tells the next part how wide its bins are already."""
    small, large = torch.randn(500) / 100, torch.randn(500) * 100
    known = histogram(large)
    direct = known.merged(histogram(small, floor=known.exponent))
    assert same(direct, histogram(small).merged(known))


def test_memory_is_bounded() -> None:
    seen = histogram(torch.tensor([1e-3]))
    for size in range(0, 100, 7):
        seen = seen.merged(histogram(torch.randn(100) * 2.0**size))
        assert len(seen.counts) == NUM_BINS


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("kind", "bound"), [("relu", 1.06), ("normal", 1.06), ("heavy", 1.2)])
def test_a_sampled_histogram_chooses_as_well(kind: str, bound: float, layout) -> None:
    """From 32 samples sampled in chunks of 8, next to all of their elements.

    The range costs at most 6 % more squared error, 20 % for very heavy tails, which few elements
    make up. A row has 64 columns whose scale depends on the column: a stride that divides the row's
    length would see one column only.
    """
    generator = torch.Generator().manual_seed(3)
    values, partly, fully = [], [], []
    for _ in range(4):
        x = torch.randn(8, 16, 56, 64, generator=generator) * torch.linspace(0.1, 2, 64)
        x = {"relu": x.relu(), "normal": x, "heavy": x**3}[kind].to(memory_format=layout)
        values.append(x.double().flatten())
        partly.append(histogram(x, 8, axis=0))
        fully.append(histogram(x, 1000))
    some, every = (
        functools.reduce(Histogram.merged, partly),
        functools.reduce(Histogram.merged, fully),
    )
    assert some.counts.sum() == 32 * PER_SAMPLE < every.counts.sum() / 3
    assert (some.low, some.high) == (every.low, every.high)
    assert error(torch.cat(values), some) <= bound * error(torch.cat(values), every)


def error(values: torch.Tensor, seen: Histogram) -> float:
    """The mean squared error of quantizing `values` with the range chosen from `seen`."""
    chosen = choose_range(seen, "squared error", symmetric=False)
    q = (values / chosen.scale).round().add(chosen.zero_point).clamp(0, 255)
    return float(((q - chosen.zero_point) * chosen.scale - values).square().mean())


def test_a_sample_is_spread_over_the_tensor() -> None:
    """One position in each of equal stretches, always the same ones."""
    taken = _positions(100_000, 1000)
    assert torch.equal(taken, _positions(100_000, 1000))
    assert torch.equal(taken // 100, torch.arange(1000))


@pytest.mark.parametrize(("shape", "axis"), [((5, 7), 1), ((4, 6, 9), 1), ((3, 8, 5, 4), 1)])
def test_channels_are_those_of_numpy(shape, axis) -> None:
    x = torch.randn(shape) * 3 + 1
    first, second = channels(x[:2], axis, extremes=True), channels(x[2:], axis, extremes=True)
    seen = first.merged(second)
    others = tuple(a for a in range(len(shape)) if a != axis)
    np.testing.assert_allclose(seen.mean, x.double().mean(others), rtol=1e-5, atol=1e-6)
    assert torch.equal(seen.low, x.amin(others))
    assert torch.equal(seen.high, x.amax(others))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_thinned_sample_knows_the_channels(layout) -> None:
    """Each value lies in the range of the channel it is said to come from."""
    x = torch.rand(4, 6, 40, 40) + torch.arange(6.0).reshape(1, 6, 1, 1) * 10
    sample = thinned(x.to(memory_format=layout), axis=1, samples=4)
    assert torch.equal((sample.value / 10).floor(), sample.channel.float())
    assert set(sample.channel.tolist()) == set(range(6))
    one = thinned(x[0, :, 0, :].contiguous(), axis=0, samples=1)
    assert torch.equal((one.value / 10).floor(), one.channel.float())


def test_a_thinned_sample_is_bounded_and_fair() -> None:
    x = torch.rand(4, 8, 64, 64, generator=torch.Generator().manual_seed(0))
    seen = thinned(x, axis=1, samples=4)
    for _ in range(30):
        seen = seen.merged(thinned(x, axis=1, samples=4))
    assert THINNED / 2 < seen.value.numel() <= THINNED
    assert float(seen.value.mean()) == pytest.approx(0.5, abs=0.01)
    assert torch.bincount(seen.channel).float().std() < 0.1 * THINNED / 8

"""Ranges: close to the best there is, zero exact, and sane at the ends of what floats can be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from burnish.quantize._calibration.observe import Histogram, histogram
from burnish.quantize._calibration.range import LEVELS, METHODS, Params, choose_range, params

COUNT = 20_000
SHRINKS = np.linspace(0.05, 1.0, 40)


def draws() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(COUNT)
    return {
        "normal": normal,
        "relu": np.maximum(normal, 0),
        "laplace": rng.laplace(size=COUNT),
        "heavy": rng.standard_t(3, COUNT),
        "shifted": normal / 2 + 2,
        "negative": -np.abs(rng.standard_t(3, COUNT)),
        "skewed": rng.gamma(0.5, 1, COUNT) - 0.1,
        "outliers": np.r_[normal, 40.0, -90.0],
    }


def error(x: np.ndarray, scale: float, zero_point: int) -> float:
    """The mean squared error of quantizing x, in float64, with nothing of the code under test."""
    q = np.clip(np.rint(x / scale) + zero_point, 0, 255)
    return float(np.mean(((q - zero_point) * scale - x) ** 2))


def of(x: np.ndarray) -> Histogram:
    """The histogram of all of x, not of a sample of it."""
    return histogram(torch.from_numpy(x).float(), samples=1000)


@pytest.mark.parametrize("name", list(draws()))
def test_squared_error_is_near_the_best_pair_of_ends(name: str) -> None:
    """Within 1 % of the least of 1,600 pairs of ends, and no worse than min-max."""
    x = draws()[name].astype(np.float32).astype(np.float64)
    low, high = min(x.min(), 0.0), max(x.max(), 0.0)
    ends = [(low * a, high * b) for a in SHRINKS for b in SHRINKS]
    grids = [(max((h - lo) / 255, 1e-12), lo) for lo, h in ends]
    best = min(error(x, scale, round(-lo / scale)) for scale, lo in grids)
    chosen = choose_range(of(x), "squared error", symmetric=False)
    widest = choose_range(of(x), "min-max", symmetric=False)
    mine = error(x, chosen.scale, chosen.zero_point)
    assert mine <= 1.01 * best
    assert mine <= error(x, widest.scale, widest.zero_point) * (1 + 1e-9)


@pytest.mark.parametrize("name", ["normal", "heavy", "outliers", "skewed"])
def test_symmetric_squared_error_is_near_the_best_scale(name: str) -> None:
    x = draws()[name].astype(np.float32).astype(np.float64)
    largest = np.abs(x).max()
    best = min(error(x, largest * a / 127, 128) for a in np.linspace(0.05, 1, 300))
    chosen = choose_range(of(x), "squared error", symmetric=True)
    assert chosen.zero_point == 128
    assert error(x, chosen.scale, 128) <= 1.01 * best


def test_symmetric_leaves_unsigned_tensors_all_levels() -> None:
    chosen = choose_range(of(draws()["relu"]), "min-max", symmetric=True)
    assert chosen.zero_point == 0
    assert chosen.high == pytest.approx(draws()["relu"].max(), rel=1e-6)


def test_min_max_covers_what_was_seen() -> None:
    x = draws()["outliers"]
    chosen = choose_range(of(x), "min-max", symmetric=False)
    assert chosen.low <= x.min() + chosen.scale / 2
    assert chosen.high >= x.max() - chosen.scale / 2


@given(
    low=st.floats(-(2.0**127), 2.0**127, width=32),
    high=st.floats(-(2.0**127), 2.0**127, width=32),
    method=st.sampled_from(METHODS),
    symmetric=st.booleans(),
)
def test_zero_is_exact_and_the_scale_usable(low, high, method, symmetric) -> None:
    """For any range at all: zero lies on the grid, and the scale is a normal float32."""
    values = torch.tensor(sorted([low, high]))
    chosen = choose_range(histogram(values), method, symmetric)
    assert 0 <= chosen.zero_point <= LEVELS
    assert chosen.low <= 0 <= chosen.high
    assert np.float32(chosen.scale) == chosen.scale
    assert np.finfo(np.float32).tiny <= chosen.scale < np.inf


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("value", [0.0, 3.0, -3.0, 1e-6, -1e-6, 1e30, 3e38])
def test_a_constant_comes_back(value: float, symmetric: bool, method) -> None:
    """A constant tensor is at the edge of its range, and exact to half a step."""
    chosen = choose_range(histogram(torch.full((50,), value)), method, symmetric)
    q = np.clip(np.rint(value / chosen.scale) + chosen.zero_point, 0, 255)
    assert abs((q - chosen.zero_point) * chosen.scale - value) <= chosen.scale / 2
    assert chosen.scale <= max(abs(value) / 127 * 1.0001, 1 / 255)


@pytest.mark.parametrize("value", [1e-45, 1e-40, 1e-20, -1e-20])
def test_what_is_next_to_nothing_is_zero(value: float) -> None:
    """A range too small for a grid becomes zeros, not a division by zero."""
    chosen = choose_range(histogram(torch.tensor([value, 0.0])), "squared error", False)
    assert chosen.scale > 1e-12
    assert chosen.zero_point == 0


def test_widening_for_zero_costs_at_most_half_a_step() -> None:
    for low, high in [(-1.0, 3.0), (-0.001, 7.0), (-5.0, 0.01), (2.0, 3.0), (-3.0, -2.0)]:
        got = params(low, high)
        assert got.low <= min(low, 0) + got.scale / 2
        assert got.high >= max(high, 0) - got.scale / 2
        assert isinstance(got, Params)

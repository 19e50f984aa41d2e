"""Observers: seen in parts is seen whole, memory is bounded, and ranges are those of an oracle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from burnish.errors import InvalidInput
from burnish.quantize._calibration.entropy import divergence, entropy_ends
from burnish.quantize._calibration.observe import PER_SAMPLE, Histogram
from burnish.quantize._calibration.observer import BINS_PER_CHANNEL, Observer
from burnish.quantize._calibration.range import METHODS
from burnish.quantize._tensors.spec import QSpec

UINT8 = QSpec("uint8", symmetric=False)
SPECS = [UINT8, QSpec("int8", "channel", axis=1)]
SAMPLES = st.tuples(st.integers(2, 24), st.integers(0, 2**16), st.sampled_from(["relu", "heavy"]))


def drawn(num: int, seed: int, kind: str) -> torch.Tensor:
    """[num, 3, 5]: a channel that is dead, one of normal size, one a thousand times as large."""
    x = torch.randn(num, 3, 5, generator=torch.Generator().manual_seed(seed))
    x = x.relu() if kind == "relu" else x**3
    return x * torch.tensor([0.0, 1.0, 1000.0])[:, None]


def assert_same(mine: Observer, theirs: Observer) -> None:
    """The same sketches, to the last bit but for the sums of moving averages."""
    assert len(mine.sketches) == len(theirs.sketches)
    for a, b in zip(mine.sketches, theirs.sketches, strict=True):
        assert (a.exponent, a.low, a.high) == (b.exponent, b.low, b.high)
        assert np.array_equal(a.counts, b.counts)
        assert a.average.num == b.average.num
        assert (a.average.low, a.average.high) == pytest.approx(
            (b.average.low, b.average.high), rel=1e-9, abs=1e-12
        )
    if mine.method != "moving average":
        for one, other in zip(mine.scale_zero_point(), theirs.scale_zero_point(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("spec", SPECS, ids=["tensor", "channel"])
@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=15, deadline=None)
@given(data=SAMPLES, cut=st.floats(0, 1))
def test_two_halves_merged_are_the_whole(method, spec, data, cut: float) -> None:
    x = drawn(*data)
    at = min(max(1, int(cut * len(x))), len(x) - 1)
    empty = Observer(method, spec)
    assert_same(empty.observe(x[:at]).merged(empty.observe(x[at:])), empty.observe(x))


@pytest.mark.parametrize("spec", SPECS, ids=["tensor", "channel"])
@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=10, deadline=None)
@given(data=SAMPLES, sizes=st.tuples(st.integers(1, 7), st.integers(1, 7)))
def test_batches_leave_no_trace_and_merging_is_associative(method, spec, data, sizes) -> None:
    x = drawn(*data)
    empty = Observer(method, spec)
    seen = []
    for size in sizes:
        observer = empty
        for part in x.split(size):
            observer = observer.observe(part)
        seen.append(observer)
    assert_same(seen[0], seen[1])
    a, b, c = (empty.observe(part) for part in (x[:1], x[1:2], x))
    assert_same(a.merged(b).merged(c), a.merged(b.merged(c)))
    assert_same(empty.merged(a), a)
    assert_same(a.merged(empty), a)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "moving average"])
@given(data=SAMPLES)
@settings(max_examples=10, deadline=None)
def test_order_does_not_matter_but_to_a_moving_average(method, data) -> None:
    x = drawn(*data)
    for spec in SPECS:
        there, back = (Observer(method, spec).observe(part) for part in (x, x.flip(0)))
        for a, b in zip(there.sketches, back.sketches, strict=True):
            assert (a.exponent, a.low, a.high) == (b.exponent, b.low, b.high)
            assert np.array_equal(a.counts, b.counts)
        for one, other in zip(there.scale_zero_point(), back.scale_zero_point(), strict=True):
            assert torch.equal(one, other)


def test_large_samples_are_cut_without_a_trace() -> None:
    """Larger than what enters the histogram of one sample, in both layouts of memory."""
    x = torch.randn(6, 8, 50, 50) * torch.linspace(0.1, 2, 8)[:, None, None]
    assert x[0].numel() > PER_SAMPLE
    for spec in SPECS:
        for layout in (torch.contiguous_format, torch.channels_last):
            empty = Observer("squared error", spec)
            part = x.to(memory_format=layout)
            assert_same(empty.observe(part[:1]).observe(part[1:]), empty.observe(part))


@pytest.mark.parametrize("spec", SPECS, ids=["tensor", "channel"])
@pytest.mark.parametrize("method", METHODS)
def test_memory_does_not_grow(method, spec) -> None:
    def stored(observer: Observer) -> int:
        return sum(sketch.counts.size for sketch in observer.sketches)

    observer = Observer(method, spec).observe(drawn(2, 0, "heavy"))
    first = stored(observer)
    assert first <= max(8192, 3 * BINS_PER_CHANNEL)
    for seed in range(1, 40):
        observer = observer.observe(drawn(3, seed, "heavy") * 2.0**seed)
        assert stored(observer) == first


# --- oracles, in float64 and with nothing of the code under test


def values(kind: str, num: int = 40_000) -> np.ndarray:
    rng = np.random.default_rng(7)
    normal = rng.standard_normal(num)
    x = {
        "normal": normal,
        "relu": np.maximum(normal, 0),
        "heavy": rng.standard_t(3, num),
        "negative": -rng.gamma(0.5, 1, num),
        "outlier": np.r_[normal, 60.0],
    }[kind]
    found: NDArray[np.float64] = x.astype(np.float32).astype(np.float64)
    return found


def seen(x: np.ndarray, method, spec: QSpec = UINT8) -> Observer:
    """All of the values, a hundred to a sample so that none is thinned."""
    whole = torch.from_numpy(x[: len(x) // 100 * 100].reshape(-1, 100)).float()
    rest = torch.from_numpy(x[len(whole) * 100 :]).float()
    observer = Observer(method, spec).observe(whole)
    return observer.observe(rest[None]) if len(rest) else observer


def ends(observer: Observer) -> tuple[float, float]:
    scale, zero = observer.scale_zero_point()
    return -int(zero) * float(scale), (255 - int(zero)) * float(scale)


@pytest.mark.parametrize("kind", ["normal", "relu", "heavy", "negative", "outlier"])
def test_percentile_is_numpys_quantile_within_a_bin(kind: str) -> None:
    x = values(kind)
    observer = seen(x, "percentile")
    under = {"relu": 0.0, "negative": 1e-4}.get(kind, 5e-5)
    low = np.quantile(x, under, method="inverted_cdf")
    high = np.quantile(x, 1 - (1e-4 - under), method="inverted_cdf")
    found = ends(observer)
    slack = observer.sketches[0].width + (found[1] - found[0]) / 255
    assert found[0] == pytest.approx(min(low, 0), abs=slack)
    assert found[1] == pytest.approx(max(high, 0), abs=slack)


def test_symmetric_percentile_is_that_of_magnitudes() -> None:
    x = values("heavy")
    observer = seen(x, "percentile", QSpec("int8"))
    scale, zero = observer.scale_zero_point()
    wanted = np.quantile(np.abs(x), 1 - 1e-4, method="inverted_cdf")
    assert int(zero) == 0
    assert float(scale) * 127 == pytest.approx(wanted, abs=observer.sketches[0].width)


@pytest.mark.parametrize("kind", ["normal", "relu", "heavy", "outlier"])
@pytest.mark.parametrize("bits", [4, 8])
def test_squared_error_is_near_brute_force_on_the_data(kind: str, bits: int) -> None:
    x = values(kind)
    levels = 2**bits - 1

    def error(scale: float, zero: int) -> float:
        q = np.clip(np.rint(x / scale) + zero, 0, levels)
        return float(np.mean(((q - zero) * scale - x) ** 2))

    low, high = min(x.min(), 0.0), max(x.max(), 0.0)
    shrinks = np.linspace(0.05, 1, 30)
    grids = {(low * a, high * b) for a in shrinks for b in shrinks}
    best = min(error((h - lo) / levels, round(-lo * levels / (h - lo))) for lo, h in grids)
    spec = QSpec(f"uint{bits}", symmetric=False)
    scale, zero = seen(x, "squared error", spec).scale_zero_point()
    assert error(float(scale), int(zero)) <= (1.02 if bits == 8 else 1.06) * best


def test_moving_average_is_the_recurrence() -> None:
    x = torch.randn(50, 9).double()
    low, high = float(x[0].min()), float(x[0].max())
    for row in x[1:]:
        low += 0.01 * (float(row.min()) - low)
        high += 0.01 * (float(row.max()) - high)
    sketch = Observer("moving average").observe(x[:20]).observe(x[20:]).sketches[0]
    assert (sketch.average.low, sketch.average.high) == pytest.approx((low, high), rel=1e-5)


def reference_divergence(sketch: Histogram, limit: int, levels: int = 255) -> float:
    """Migacz's divergence bin by bin, with this project's grid and its rule for the zero bin."""
    counts = [float(c) for c in sketch.counts]
    zero, width = len(counts) // 2, sketch.width
    counts[zero] = min(counts[zero], max(counts[zero - 1], counts[zero + 1]))
    low = min(max(sketch.low, -limit * width), 0.0)
    high = max(min(sketch.high, limit * width), 0.0)
    scale = (high - low) / levels
    p, q, level_of = {}, {}, {}
    for index in range(zero - limit, zero + limit):
        p[index] = counts[index]
        centre = (index - zero + 0.5) * width
        level = np.rint(centre / scale) + np.rint(-low / scale)
        level_of[index] = int(min(max(level, 0), levels))
    p[zero - limit] += sum(counts[: zero - limit])
    p[zero + limit - 1] += sum(counts[zero + limit :])
    members: dict[int, list[int]] = {}
    for index in p:
        if p[index] > 0:
            members.setdefault(level_of[index], []).append(index)
    for group in members.values():
        mass = sum(counts[index] for index in group)
        for index in group:
            q[index] = max(mass / len(group), 1e-4)
    total_p, total_q = sum(p.values()), sum(q.values())
    return float(sum(p[i] / total_p * np.log((p[i] / total_p) / (q[i] / total_q)) for i in q))


@pytest.mark.parametrize("kind", ["normal", "relu", "heavy", "outlier"])
def test_entropy_is_the_least_divergence(kind: str) -> None:
    """Each divergence is the reference's; what the series of limits leaves out is worth little."""
    sketch = seen(values(kind), "entropy").sketches[0]
    most = int(np.ceil(max(-sketch.low, sketch.high) / sketch.width))
    tried = {k: reference_divergence(sketch, k) for k in [*range(128, most, 150), most]}
    counts = sketch.counts.astype(np.float64)
    zero = len(counts) // 2
    counts[zero] = min(counts[zero], max(counts[zero - 1], counts[zero + 1]))
    for limit, wanted in tried.items():
        found = divergence(counts, sketch.width, limit, (sketch.low, sketch.high), 255)
        assert found == pytest.approx(wanted, rel=1e-9)
    low, high = entropy_ends(sketch, 255, symmetric=False)
    chosen = min(round(max(-low, high) / sketch.width), most)
    assert reference_divergence(sketch, chosen) <= 1.05 * min(tried.values())


def test_entropy_clips_an_outlier_that_min_max_keeps() -> None:
    x = values("outlier")
    assert ends(seen(x, "min-max"))[1] == pytest.approx(60, abs=0.3)
    assert ends(seen(x, "entropy"))[1] < 8
    assert ends(seen(x, "percentile"))[1] < 8


# --- ends of what there is


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 2.5, -2.5, 1e-30, 3e38, -3e38])
def test_one_sample_of_a_constant(method, symmetric: bool, value: float) -> None:
    """Zero variance, dead or not: a scale that is usable, and the constant comes back."""
    spec = QSpec("uint8", symmetric=symmetric)
    scale, zero = Observer(method, spec).observe(torch.full((1, 40), value)).scale_zero_point()
    assert torch.finfo(torch.float32).tiny <= float(scale) < float("inf")
    q = np.clip(np.rint(value / float(scale)) + int(zero), 0, 255)
    assert (q - int(zero)) * float(scale) == pytest.approx(value, abs=float(scale) * 0.51, rel=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_almost_always_zero_keeps_its_range(method) -> None:
    """One value in 100,000 is not zero: below every percentile, and yet all there is."""
    x = torch.zeros(100, 1000)
    x[50, 7] = 3.0
    scale, _ = Observer(method).observe(x).scale_zero_point()
    assert 0 < float(scale) <= 3.01 / 255
    if method in ("min-max", "percentile"):
        assert float(scale) == pytest.approx(3 / 255, rel=1e-3)


@pytest.mark.parametrize(
    ("axis", "batch_axis", "shape"),
    [(0, None, (4, 6)), (-1, 0, (3, 5, 4)), (0, 1, (4, 7)), (1, -1, (5, 4, 7)), (2, 1, (5, 7, 4))],
)
def test_channels_lie_along_the_axis_named(axis: int, batch_axis, shape) -> None:
    x = torch.randn(shape)
    observer = Observer("min-max", QSpec("int8", "channel", axis=axis), batch_axis).observe(x)
    others = [a for a in range(x.dim()) if a != axis % x.dim()]
    torch.testing.assert_close(observer.scale_zero_point()[0], x.abs().amax(others) / 127)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_seen_as_float32(dtype) -> None:
    x = torch.randn(10, 10).to(dtype)
    assert_same(Observer().observe(x), Observer().observe(x.float()))


BAD = {
    "infinite": lambda: Observer().observe(torch.tensor([[1.0, float("inf")]])),
    r"channel 1 of x is not finite \(nan": lambda: Observer(
        spec=QSpec("int8", "channel", axis=1)
    ).observe(torch.tensor([[1.0, float("nan")]])),
    "int64": lambda: Observer().observe(torch.ones(2, 2, dtype=torch.int64)),
    "at least one": lambda: Observer().observe(torch.zeros(0, 3)),
    r"batch_axis=2": lambda: Observer(batch_axis=2).observe(torch.zeros(2, 3)),
    "that of the channels and that of the samples": lambda: Observer(
        spec=QSpec("int8", "channel", axis=0)
    ).observe(torch.zeros(2, 3)),
    "nothing was observed": lambda: Observer().scale_zero_point(),
    "one of 'squared error'": lambda: Observer("mse"),  # type: ignore[arg-type]
    "no blocks": lambda: Observer(spec=QSpec("int8", "block", block_size=4)),
    "float format": lambda: Observer(spec=QSpec("float8_e4m3fn")),
    "finer than the histogram": lambda: Observer("entropy", QSpec("int16")),
    "do not merge": lambda: Observer().merged(Observer("min-max")),
    "3 channels before, 4 now": lambda: (
        Observer(spec=QSpec("int8", "channel", axis=1))
        .observe(torch.ones(2, 3))
        .observe(torch.ones(2, 4))
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_observed_is_refused(message: str) -> None:
    with pytest.raises(InvalidInput, match="not finite" if message == "infinite" else message):
        BAD[message]()


def test_observing_leaves_the_observer_as_it_was() -> None:
    empty = Observer()
    once = empty.observe(torch.ones(2, 2))
    once.observe(torch.full((2, 2), 9.0))
    assert empty.sketches == ()
    assert once.sketches[0].high == 1.0
    assert replace(once) == once

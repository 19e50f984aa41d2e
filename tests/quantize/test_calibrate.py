"""Calibration: what order and batches the data comes in does not matter; bad data is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from burnish.errors import InvalidInput
from burnish.graph import flatten_call
from burnish.quantize import Statistics, calibrate
from burnish.testing import catalogue
from tests import once
from tests.quantize.quick import folded, quantized

TINIES = {tiny.name: tiny for tiny in catalogue()}


def assert_same(mine: Statistics, theirs: Statistics) -> None:
    """Equal up to rounding: of sums, and of values that a batch's size made round otherwise."""
    assert mine.num_samples == theirs.num_samples
    assert [row.key for row in mine.sample.rows] == [row.key for row in theirs.sample.rows]
    assert mine.histograms.keys() == theirs.histograms.keys()
    for name, a in mine.histograms.items():
        b = theirs.histograms[name]
        assert (a.low, a.high) == pytest.approx((b.low, b.high), rel=1e-5, abs=1e-6)
        moved = np.abs(np.cumsum(a.counts - b.counts)).max() if a.exponent == b.exponent else 0
        assert a.counts.sum() == b.counts.sum()
        assert moved <= 2 + 0.001 * a.counts.sum()
    for name, c in mine.inputs.items():
        np.testing.assert_allclose(c.mean, theirs.inputs[name].mean, rtol=1e-4, atol=1e-6)
    for name, c in mine.outputs.items():
        np.testing.assert_allclose(c.low, theirs.outputs[name].low, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(c.high, theirs.outputs[name].high, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["separable", "attention_split", "gru", "two_inputs", "encoder"])
def test_order_and_batches_do_not_matter(name: str) -> None:
    """The same 24 samples in three batches, backwards, one by one, and merged from two halves."""
    tiny = TINIES[name]
    model = once.folded(tiny)
    axes = [slot.shape.index("batch") for slot in model.inputs]
    drawn = [tiny.inputs(8, seed=seed) for seed in range(3)]
    calls = [flatten_call(call.args, call.kwargs) for call in drawn]
    alone = [
        tuple(t.narrow(axis, i, 1) for t, axis in zip(call, axes, strict=True))
        for call in calls
        for i in range(8)
    ]
    whole = tuple(torch.cat(parts, axis) for *parts, axis in zip(*calls, axes, strict=True))
    wanted = calibrate(model, calls)
    assert wanted.num_samples == 24
    assert_same(calibrate(model, calls[::-1]), wanted)
    assert_same(calibrate(model, alone), wanted)
    assert_same(calibrate(model, [whole]), wanted)
    assert_same(calibrate(model, calls[:1]).merged(calibrate(model, calls[1:])), wanted)


def test_moving_averages_are_over_samples_and_do_not_depend_on_batches() -> None:
    """Sequence-first values too, whose batch axis is the second."""
    model = once.folded(TINIES["gru"])
    call = TINIES["gru"].inputs(20, seed=0)
    tensors = flatten_call(call.args, call.kwargs)
    axes = [slot.shape.index("batch") for slot in model.inputs]
    alone = [
        tuple(t.narrow(axis, i, 1) for t, axis in zip(tensors, axes, strict=True))
        for i in range(20)
    ]
    whole, single = calibrate(model, [tensors]), calibrate(model, alone)
    for name, seen in whole.histograms.items():
        theirs = single.histograms[name].average
        assert seen.average.num == theirs.num == 20, name
        assert (seen.average.low, seen.average.high) == pytest.approx(
            (theirs.low, theirs.high), rel=1e-4, abs=1e-6
        )


def test_recurrent_layers_have_their_input_and_output_watched() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.LSTM(6, 8, 2, batch_first=True)
            self.second, self.head = nn.GRU(8, 5), nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y, _ = self.first(x)
            z, _ = self.second(y.transpose(0, 1))
            out: torch.Tensor = self.head(z[-1])
            return out

    x = torch.randn(6, 7, 6)
    seen = calibrate(folded(Net(), x), [(x,)]).histograms
    assert {"input:0", "first:getitem", "transpose", "second:getitem"} <= seen.keys()
    assert seen["input:0"].high == float(x.max())
    # All that an LSTM hands on is a tanh times a sigmoid.
    assert 0 < seen["first:getitem"].high < 1


def test_a_generator_will_do_and_watch_sees_it() -> None:
    model = folded(nn.Linear(4, 3), torch.randn(4, 4))
    titles = []

    def watch(items, title):
        titles.append(title)
        return items

    found = calibrate(model, ((torch.randn(5, 4),) for _ in range(3)), watch)
    assert found.num_samples == 15
    assert titles == ["calibrating"]


def test_the_model_is_left_alone() -> None:
    """Channels-last is for the calibration's own copy."""
    x = torch.randn(4, 3, 8, 8)
    model = folded(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), x)
    before = {name: (t.clone(), t.stride()) for name, t in model.state_dict().items()}
    calibrate(model, [(x,)])
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name][0])
        assert tensor.stride() == before[name][1]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((), "holds 0 tensors, the model takes input"),
        ((torch.zeros(2, 4), torch.zeros(2, 4)), "holds 2 tensors"),
        ((torch.zeros(2, 5),), r"float32 \[2, 5\].*float32 \['batch', 4\]"),
        ((torch.zeros(2, 4, 1),), r"\[2, 4, 1\]"),
        ((torch.zeros(2, 4, dtype=torch.float64),), "float64"),
        ((torch.full((2, 4), float("nan")),), "'input' holds NaN"),
        ((torch.full((2, 4), float("inf")),), "infinity"),
    ],
)
def test_data_that_does_not_fit_is_refused(batch, message: str) -> None:
    model = folded(nn.Linear(4, 3), torch.randn(4, 4))
    with pytest.raises(InvalidInput, match=message):
        calibrate(model, [(torch.zeros(2, 4),), batch])


def test_no_data_is_refused() -> None:
    with pytest.raises(InvalidInput, match="empty"):
        calibrate(folded(nn.Linear(4, 3), torch.randn(4, 4)), [])


def test_a_model_that_overflows_is_refused_by_the_value() -> None:
    class Overflowing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.second((self.first(x) * 1e3).exp())
            return y

    model = folded(Overflowing(), torch.randn(4, 4))
    both = torch.tensor([[1e4], [-1e4]]).expand(2, 4)  # whatever the weights' signs
    with pytest.raises(InvalidInput, match="value of exp is not finite"):
        calibrate(model, [(both,)])


def test_a_larger_batch_than_traced_is_cut_and_all_of_it_seen() -> None:
    """Values in the last samples of a large batch count."""
    x = torch.zeros(50, 4)
    x[-1] = 7.0
    model = folded(nn.Linear(4, 3), torch.randn(4, 4))
    statistics = calibrate(model, [(x,)])
    _, choices = quantized(model, statistics, ranges="min-max")
    assert choices.plan["quantizers"]["input:0"]["scale"] == pytest.approx(7 / 255)

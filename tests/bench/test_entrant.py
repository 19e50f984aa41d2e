"""Crews: what several workers at the same time count, and on which cores they run."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.bench._entrant import overlapping
from burnish.bundle import Worker
from burnish.errors import InvalidInput
from tests.bench.made_up import Array
from tests.bundle import models

spans_of = st.lists(st.floats(0.001, 0.003), min_size=2, max_size=4)


@given(spans_of, st.lists(st.floats(0, 0.01), min_size=4, max_size=4))
def test_streams_of_different_speed_and_start_get_done_what_is_counted(
    seconds: list[float], late: list[float]
) -> None:
    """Streams over their mean time is the sum of their rates, as long as all of them run."""
    spans = []
    for each, start in zip(seconds, late, strict=False):
        ends = start + each * np.arange(1, 201)
        spans.append(np.stack([ends - each, ends], axis=1))
    counted = overlapping(spans)
    assert len(spans) / counted.mean() == pytest.approx(sum(1 / each for each in seconds), rel=0.05)


def test_runs_without_company_do_not_count() -> None:
    def span(*runs: tuple[float, float]) -> Array:
        return np.array(runs)

    first = span((0, 1), (1, 2), (2, 3), (3, 4))
    second = span((1.5, 2.5), (2.5, 3.5), (3.5, 6.5))
    assert sorted(overlapping([first, second])) == [1, 1, 1, 3]
    apart = span((10, 11), (11, 12))
    assert len(overlapping([first, apart])) == 0


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs pinning")
def test_streams_have_cores_of_their_own(tmp_path: Path) -> None:
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        pytest.skip("needs two cores")
    good = models.onnx_artifact(tmp_path).with_options(threads=1)
    with Worker(good) as first, Worker(good, place=1) as second:
        found = [os.sched_getaffinity(worker.pid) for worker in (first, second)]
        at = first.spans(models.samples(1), repeats=1)[0, 1] + 0.05
        spans = second.spans(models.samples(1), repeats=3, at=at)
    assert found == [{usable[0]}, {usable[1]}]
    assert at <= spans[0, 0] < at + 1
    assert (spans[:, 1] > spans[:, 0]).all()
    assert (spans[1:, 0] >= spans[:-1, 1]).all()
    with pytest.raises(InvalidInput, match=f"may use {len(usable)} cores"):
        Worker(good, place=len(usable))

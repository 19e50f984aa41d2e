"""Counting in turns: what is averaged, what is left out, and what is told."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from burnish.bundle import Counts, OpTime, Worker
from burnish.bundle._counting import count
from burnish.bundle._counts import middle_half
from burnish.bundle._program import OPERATORS, Program
from burnish.errors import Damaged, InvalidInput
from tests.bundle import models


@dataclass
class Made:
    """A session and its counter: kernels of one and two milliseconds, and one outside of them."""

    log: list[str] = field(default_factory=list)

    def run(self, inputs: list[Any]) -> list[Any]:
        self.log.append("whole")
        time.sleep(0.004)
        return []

    @contextlib.contextmanager
    def counting(self, inputs: list[Any]) -> Iterator[Counter]:
        yield Counter(self.log)
        self.log.append("closed")


@dataclass
class Counter:
    log: list[str]

    def run(self, *, counted: bool) -> None:
        self.log.append("counted" if counted else "left out")
        time.sleep(0.004)

    def times(self) -> list[OpTime]:
        return [OpTime("a", "K", 0.001), OpTime("b", "K", 0.002)]


def test_runs_take_turns_and_the_first_of_each_is_left_out() -> None:
    session, signs = Made(), list[int]()
    found = count(session, [], 8, lambda: signs.append(1))
    assert session.log.count("counted") == 8
    assert session.log[-1] == "closed"
    text = " ".join(session.log)
    assert text.count("whole left out counted") >= 4
    assert "counted counted whole whole" in text
    assert len(signs) >= 16
    assert found.seconds == pytest.approx(0.004, rel=0.5)
    assert found.outside == pytest.approx(found.seconds - 0.003)


def test_a_single_run_can_be_counted() -> None:
    session = Made()
    count(session, [], 1, lambda: None)
    assert session.log.count("counted") == 1


def test_a_counter_is_closed_when_it_fails() -> None:
    class Broken(Counter):
        def times(self) -> list[OpTime]:
            raise RuntimeError("no counters")

    class Session(Made):
        @contextlib.contextmanager
        def counting(self, inputs: list[Any]) -> Iterator[Counter]:
            try:
                yield Broken(self.log)
            finally:
                self.log.append("closed")

    session = Session()
    with pytest.raises(RuntimeError, match="no counters"):
        count(session, [], 2, lambda: None)
    assert session.log[-1] == "closed"


def test_interrupted_runs_are_no_part_of_the_mean() -> None:
    usual = np.tile([1.0, 2.0], (8, 1))
    usual[3] = [50.0, 2.0]
    usual[5] = [0.5, 2.0]
    assert middle_half(usual).tolist() == [1.0, 2.0]
    assert middle_half(usual[:1]).tolist() == [1.0, 2.0]
    rows = np.random.default_rng(0).random((7, 3))
    assert middle_half(rows).sum() == pytest.approx(np.sort(rows.sum(1))[1:6].mean())


def test_counts_survive_the_way_to_the_parent() -> None:
    counts = Counts((OpTime("a", "Conv", 1e-3, ("x", "y")), OpTime("b", "C", 0.0)), 2e-3, 3e-3)
    assert Counts.from_json(json.loads(json.dumps(counts.to_json()))) == counts


@pytest.mark.parametrize("name", ["onnx_artifact", "openvino_artifact", "eager_artifact"])
def test_kernels_do_not_take_longer_than_the_runs_they_are_part_of(
    name: str, request: pytest.FixtureRequest
) -> None:
    """And have the names of the file's operators, where the file has any.

    A kernel's time is a mean and a run's a median, so that one interruption tells on the first
    alone; the best of five counts has none.
    """
    artifact = request.getfixturevalue(name)
    inputs = models.samples(4096)
    with Worker(artifact.with_options(threads=1)) as worker:
        with pytest.raises(InvalidInput, match="repeats"):
            worker.count(inputs, repeats=0)
        several = [worker.count(inputs, repeats=40) for _ in range(5)]
        assert worker.op_times(inputs, repeats=2)
    shares = [sum(item.seconds for item in c.times) / c.counted_seconds for c in several]
    assert 0 < min(shares) < 1.5
    counts = several[0]
    assert counts.seconds > 0
    members = {member for item in counts.times for member in item.members}
    if artifact.runtime == "onnxruntime":
        assert members == {"matmul", "add", "relu"}


def test_a_table_of_operators_that_is_none_is_damaged(eager_artifact: Any, tmp_path: Any) -> None:
    import dataclasses
    import shutil

    shutil.copytree(eager_artifact.folder, tmp_path / "copy")
    artifact = dataclasses.replace(
        eager_artifact, folder=tmp_path / "copy", files=("model.pt2", OPERATORS)
    )
    for text in ("{", "{}", '{"operators": {"linear": 3}}'):
        (tmp_path / "copy" / OPERATORS).write_text(text)
        with pytest.raises(Damaged):
            Program(artifact)

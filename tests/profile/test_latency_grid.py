"""Widths to measure, and times between them: exact where time is bilinear, never falling."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from burnish.errors import Damaged
from burnish.profile._latency_grid import Curve, Grid, classes, widths_to_measure

BLOCK = 16
EVERY = ("even", "part", "odd", "slim", "thin")


def test_widths_are_measured_from_a_quarter_to_the_widest_and_in_every_class() -> None:
    points = widths_to_measure([(32, 256), (128, 512)], BLOCK, (1, 1))
    ins, outs = zip(*points, strict=True)
    assert (min(ins), max(ins)) == (8, 128)
    assert (min(outs), max(outs)) == (64, 512)
    kinds = {classes(point, BLOCK) for point in points}
    assert kinds == set(itertools.product(EVERY, ("even", "part", "odd")))
    assert len(points) == len(set(points)) < 80


def test_widths_are_whole_numbers_of_groups() -> None:
    points = widths_to_measure([(48, 96)], BLOCK, (3, 3))
    assert all(a % 3 == 0 and b % 3 == 0 for a, b in points)


def test_a_width_that_never_varies_is_measured_as_it_is() -> None:
    assert (1,) in widths_to_measure([(1,)], BLOCK, (1,))


def test_a_bilinear_time_is_found_again_between_the_points() -> None:
    def truth(a: int, b: int) -> float:
        return 1e-6 + 2e-8 * a + 3e-8 * b + 4e-10 * a * b

    grid = Grid.fit({(a, b): truth(a, b) for a in (16, 48, 256) for b in (32, 512)})
    for a, b in ((16, 32), (17, 33), (100, 500), (256, 512)):
        assert grid.at((a, b)) == pytest.approx(truth(a, b), rel=1e-9)
        assert grid.holds((a, b))
    assert not grid.holds((15, 32))
    assert grid.at((1, 1)) == pytest.approx(truth(16, 32))


@pytest.mark.parametrize("seed", range(5))
def test_times_never_fall_with_width_whatever_was_measured(seed: int) -> None:
    drawn = random.Random(seed)
    axes = ((16, 32, 64, 128), (16, 48, 96))
    grid = Grid.fit({point: drawn.uniform(1, 2) for point in itertools.product(*axes)})
    table = np.array([[grid.at((a, b)) for b in range(10, 100)] for a in range(10, 130)])
    assert (np.diff(table, axis=0) >= -1e-12).all()
    assert (np.diff(table, axis=1) >= -1e-12).all()


def test_one_disturbed_measurement_moves_its_neighbours_little() -> None:
    clean: dict[tuple[int, ...], float] = {(w,): w * 1e-6 for w in (16, 32, 48, 64, 80, 96)}
    disturbed = Grid.fit({**clean, (48,): 1.3 * clean[(48,)]})
    for width in (16, 32, 80, 96):
        assert disturbed.at((width,)) == pytest.approx(width * 1e-6, rel=0.05)


def test_a_curve_is_a_line_between_its_points_and_in_proportion_beyond() -> None:
    curve = Curve.fit({100: 1e-6, 300: 2e-6})
    assert curve.at(200) == pytest.approx(1.5e-6)
    assert curve.at(600) == pytest.approx(4e-6)
    assert curve.at(50) == pytest.approx(0.5e-6)
    assert [curve.holds(work) for work in (50, 100, 301)] == [False, True, False]


def test_both_are_written_and_read_back() -> None:
    grid = Grid.fit({(a, b): a * b * 1e-9 for a in (1, 2) for b in (3, 4)})
    assert Grid.from_json(grid.to_json()).at((2, 3)) == grid.at((2, 3))
    curve = Curve.fit({1: 1e-6, 5: 2e-6})
    assert Curve.from_json(curve.to_json()) == curve


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"axes": [[1, 2]], "seconds": [1.0]},
        {"axes": [[2, 1]], "seconds": [1.0, 2.0]},
        {"axes": [[1, 2]], "seconds": [1.0, math.nan]},
        {"axes": [[1, 2]], "seconds": [1.0, -2.0]},
        {"axes": [["a"]], "seconds": [1.0]},
    ],
)
def test_a_record_that_holds_no_times_is_damaged(record: dict[str, object]) -> None:
    with pytest.raises(Damaged):
        Grid.from_json(record)
    with pytest.raises(Damaged):
        Curve.from_json({"work": record.get("axes", [0]), "seconds": record.get("seconds")})

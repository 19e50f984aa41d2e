"""The frontier against its definition, written out."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.core import Frontier
from burnish.errors import InvalidInput

AXES = ("latency", "drop", "size")
# Few values, so that ties on one axis and equal points are common.
FIGURE = st.sampled_from([-1.0, 0.0, 0.5, 1.0, math.inf])
POINTS = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=2), st.tuples(FIGURE, FIGURE, FIGURE), max_size=9
)


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


@given(POINTS)
def test_against_the_definition(points: dict[str, tuple[float, ...]]) -> None:
    frontier = Frontier(AXES, points)
    expected = {
        label
        for label, mine in points.items()
        if not any(_dominates(other, mine) for other in points.values())
    }
    assert set(frontier.labels()) == expected
    for label, mine in points.items():
        by = frontier.dominated_by(label)
        assert (by is None) == (label in expected)
        if by is not None:
            assert _dominates(points[by], mine)
            assert by in expected


@given(POINTS)
def test_a_frontier_is_never_empty_and_is_sorted(points: dict[str, tuple[float, ...]]) -> None:
    labels = Frontier(AXES, points).labels()
    assert bool(labels) == bool(points)
    assert [points[label] for label in labels] == sorted(points[label] for label in labels)


@given(POINTS, st.permutations(range(9)))
def test_the_order_of_the_points_does_not_matter(
    points: dict[str, tuple[float, ...]], order: list[int]
) -> None:
    items = list(points.items())
    shuffled = dict(items[i] for i in order if i < len(items))
    assert set(Frontier(AXES, points).labels()) == set(Frontier(AXES, shuffled).labels())


def test_equal_points_are_both_on_it() -> None:
    frontier = Frontier(("a", "b"), {"x": (1.0, 2.0), "y": (1.0, 2.0), "z": (1.0, 3.0)})
    assert frontier.labels() == ("x", "y")
    assert frontier.dominated_by("z") in ("x", "y")


def test_nan_is_refused_by_label() -> None:
    with pytest.raises(InvalidInput, match="'y' has NaN"):
        Frontier(("a", "b"), {"x": (1.0, 2.0), "y": (math.nan, 0.0)})


def test_another_number_of_figures_is_refused_by_label() -> None:
    with pytest.raises(InvalidInput, match="'y' has 1 figures for the axes a, b"):
        Frontier(("a", "b"), {"x": (1.0, 2.0), "y": (1.0,)})

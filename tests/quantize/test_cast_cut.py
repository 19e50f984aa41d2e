"""The fewest conversions: against every labelling there is."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.quantize._cast.cut import Value, fewest_conversions, num_conversions


@st.composite
def graphs(draw: st.DrawFn) -> list[Value]:
    """Values in order, each read by some of those behind it."""
    count = draw(st.integers(1, 8))
    values = []
    for index in range(count):
        later = st.sampled_from(range(index + 1, count)) if index + 1 < count else st.nothing()
        readers = draw(st.sets(later, max_size=3)) if index + 1 < count else set()
        values.append(
            Value(tuple(sorted(readers)), draw(st.sampled_from([None, None, True, False])))
        )
    return values


@given(graphs())
def test_no_labelling_has_fewer_and_none_with_as_few_has_more_small_values(values) -> None:
    found = fewest_conversions(values, ())
    best = min(
        (num_conversions(values, labels), -sum(labels))
        for labels in itertools.product([False, True], repeat=len(values))
        if all(v.small in (None, label) for v, label in zip(values, labels, strict=True))
    )
    assert all(v.small in (None, label) for v, label in zip(values, found, strict=True))
    assert (num_conversions(values, found), -sum(found)) == best


def test_a_conversion_is_shared_by_all_who_read_it() -> None:
    values = [Value((1, 2, 3), False), Value((), True), Value((), True), Value((), True)]
    assert num_conversions(values, fewest_conversions(values, ())) == 1


def test_what_must_be_equal_is() -> None:
    """Three parts of a list are wanted small: one conversion before beats three behind."""
    source = [Value((1,), True), Value((2, 3, 4)), Value((5,)), Value((6,)), Value((7,))]
    values = [*source, *[Value((), False)] * 3]
    found = fewest_conversions(values, [(1, 2), (1, 3), (1, 4)])
    assert found[:5] == [True, False, False, False, False]
    assert num_conversions(values, found) == 1


def test_demands_that_contradict_each_other_are_our_mistake() -> None:
    with pytest.raises(ValueError, match="contradict"):
        fewest_conversions([Value((), True), Value((), False)], [(0, 1)])

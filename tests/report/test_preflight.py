"""A prediction is judged by the range it gave, and by nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.errors import Damaged
from burnish.report._foreseen import error, foreseen, judge
from burnish.report._node import Node
from burnish.report._preflight import Answer, Preflight, preflight
from burnish.report._ratio import Ratio
from tests.report import profiles

Ends = tuple[float | None, float | None, float | None]


def answer(predicted: Ends | None, found: Ends | None, how: str = "estimated") -> Answer:
    def ratio(ends: Ends | None) -> Ratio | None:
        return None if ends is None else Ratio(*ends, None, False)

    return Answer("int8", None, None, ratio(predicted), how, None, True, ratio(found))


@pytest.mark.parametrize(
    ("predicted", "found", "state", "text"),
    [
        ((0.5, 0.4, 0.6), (0.55, 0.5, 0.6), "holds", "✓ in the range"),
        ((0.5, 0.4, 0.6), (0.7, 0.55, 0.9), "fails", "✗ outside the range"),
        ((0.5, 0.4, 0.6), (0.3, 0.2, 0.35), "fails", "✗ outside the range"),
        ((0.5, None, 0.6), (0.3, 0.2, 0.35), "none", "no range was given"),
        (None, (0.3, 0.2, 0.35), "none", "nothing was predicted"),
        ((0.5, 0.4, 0.6), None, "none", "not tried"),
        ((0.5, 0.4, 0.6), (None, None, None), "none", "not tried"),
    ],
)
def test_a_prediction_holds_where_the_speed_found_lies_in_its_range(
    predicted: Ends | None, found: Ends | None, state: str, text: str
) -> None:
    judged = judge(answer(predicted, found))
    assert (judged.state, judged.text) == (state, text)


def test_what_was_called_impossible_and_was_done_is_a_failure() -> None:
    assert judge(answer(None, (0.5, 0.4, 0.6), "not possible")).state == "fails"
    assert judge(answer(None, None, "not possible")).text == "not tried"


def test_an_unreliable_finding_decides_nothing() -> None:
    found = Ratio(0.9, 0.8, 1.0, None, True)
    one = Answer("int8", None, None, Ratio(0.5, 0.4, 0.6, None, False), None, None, True, found)
    assert judge(one).text == "cannot tell"


@given(st.floats(0.01, 100), st.floats(0.01, 100))
def test_the_error_tells_how_much_longer_it_took(predicted: float, found: float) -> None:
    off = error(answer((predicted, None, None), (found, None, None)))
    assert off is not None
    assert predicted * (1 + off) == pytest.approx(found)


def summary(first: str | None, **found: float) -> str:
    """What is said of a run in which each move was predicted at 0.8 and found at so much."""
    answers = tuple(
        Answer(
            move,
            None,
            None,
            Ratio(0.8, 0.7, 0.9, None, False),
            "estimated",
            None,
            move != "larger",
            Ratio(value, value, value, None, False) if value else None,
        )
        for move, value in found.items()
    )
    return foreseen(Preflight(None, None, first, answers), after=True).lead


def test_whether_the_advice_was_the_best_of_what_was_tried_is_said() -> None:
    assert "was the best of those tried" in summary("a", a=0.75, b=0.8)
    assert "was not the best of those tried: b came to 2.00×, against 1.25×" in summary(
        "a", a=0.8, b=0.5
    )
    assert "The move advised first, a, was not tried; of those tried, b" in summary("a", a=0, b=0.5)
    assert "Yet b came to 2.00×" in summary(None, b=0.5)
    assert "Yet" not in summary(None, b=1.5)
    assert "Nothing was measured since" in summary("a", a=0)
    assert "was the best of those tried" in summary("a", a=0.75, larger=0.1)


def test_before_a_run_nothing_is_judged() -> None:
    found = preflight(Node(profiles.preflight(), "here"))
    assert found is not None
    seen = foreseen(found, after=False)
    assert not seen.judged
    assert seen.lead.startswith(f"To try first: {profiles.FIRST_MOVE}, foreseen at 1.79× the speed")
    assert [row.first for row in seen.rows] == [True, False, False, False, False]
    assert seen.rows[-1].predicted == ("not possible", ())


def test_wrong_types_are_named() -> None:
    with pytest.raises(Damaged, match=r"here\.answers\[0\] lacks 'move'"):
        preflight(Node({"answers": [{}]}, "here"))
    with pytest.raises(Damaged, match=r"factor\.value is '2'"):
        preflight(Node({"answers": [{"move": "a", "factor": {"value": "2"}}]}, "here"))

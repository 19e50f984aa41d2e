"""What a preflight makes of measurements: arithmetic, words, and the move it advises."""

from __future__ import annotations

import json

import pytest

from burnish.bench import Ratio
from burnish.errors import Damaged
from burnish.profile import Answer, Preflight
from burnish.profile._moves import Known, Taken, compiled_answer, half_answer, scaled
from burnish.profile._preflight import ESTIMATED, IMPOSSIBLE, MEASURED, worth
from burnish.profile._representatives import Representative, halved, representatives
from burnish.profile._samples import Compiled, Sample
from burnish.profile._shape import OpShape

NOW = Ratio(1.0, 1.0, 1.0, False)


def linear(width: int, rows: tuple[int, ...] = (1,)) -> OpShape:
    return OpShape(
        kind="linear",
        inputs=((*rows, width),),
        weights=((width, width), (width,)),
        outputs=((*rows, width),),
        settings=(("operands", "iww"),),
        dtype="float32",
    )


def relu() -> OpShape:
    return OpShape("relu", ((1, 8),), (), ((1, 8),), (("operands", "i"),), "float32")


SHAPES = {"a": linear(64), "b": linear(64), "c": linear(32), "r": relu()}
SECONDS = {"a": 3.0, "b": 3.0, "c": 0.5, "r": 1.0}
TAKEN = Taken(8.0, SECONDS)


def test_the_costliest_shapes_stand_for_the_model() -> None:
    (first,) = representatives(SHAPES, SECONDS)
    assert first == Representative(linear(64), ("a", "b"))  # 92 % of the time in layers
    both = representatives(SHAPES, {**SECONDS, "c": 2.0})
    assert [one.names for one in both] == [("a", "b"), ("c",)]
    assert representatives({"r": relu()}, SECONDS) == ()


def test_linear_layers_of_as_many_rows_are_one_shape() -> None:
    (one,) = representatives({"a": linear(64, (2, 3)), "b": linear(64, (6,))}, SECONDS)
    assert one.names == ("a", "b")
    assert one.shape.inputs == ((6, 64),)


def test_half_the_width_leaves_an_image_its_colours() -> None:
    conv = OpShape(
        kind="conv2d",
        inputs=((1, 3, 8, 8),),
        weights=((16, 3, 3, 3),),
        outputs=((1, 16, 8, 8),),
        settings=(("groups", 1), ("operands", "iw")),
        dtype="float32",
    )
    half = halved(conv)
    assert half.inputs == ((1, 3, 8, 8),)
    assert half.weights == ((8, 3, 3, 3),)
    assert half.outputs == ((1, 8, 8, 8),)


def test_a_run_is_scaled_part_by_part() -> None:
    chosen = [Representative(linear(64), ("a", "b"))]
    unchanged = scaled(TAKEN, chosen, SHAPES, [1.0], (1.0, 1.0, 1.0))
    assert unchanged.value == pytest.approx(1.0)
    # 6 s at a quarter, 0.5 s beside them likewise, 1.5 s of the rest as they are.
    quarter = scaled(TAKEN, chosen, SHAPES, [0.25], (0.5, 1.0, 2.0))
    assert quarter.value == pytest.approx((6.5 / 4 + 1.5) / 8)
    assert quarter.low == pytest.approx((0.85 * 1.5 + 0.125 + 0.75) / 8)
    assert quarter.high == pytest.approx((1.15 * 1.5 + 0.125 + 3.0) / 8)


def test_fewer_channels_are_foreseen_against_what_runs_today() -> None:
    chosen = [Representative(linear(64), ("a", "b"))]
    base = Ratio(0.5, 0.4, 0.6, False)  # the runtime against eager
    sampled = Sample((2.0,), (0.5,))
    answer = half_answer(Known("openvino", TAKEN, base, chosen, SHAPES, sampled))
    assert answer.move == "half the channels in openvino"
    assert answer.how == ESTIMATED
    assert answer.factor is not None
    own = scaled(TAKEN, chosen, SHAPES, [0.25], (0.45, 0.6, 0.95))
    assert answer.factor.value == pytest.approx(own.value * 0.5)
    assert answer.factor.high == pytest.approx(own.high * 0.6)
    assert answer.answer.startswith("Yes")


def test_what_has_no_answer_says_why() -> None:
    none = half_answer(Known("openvino", TAKEN, NOW, [], SHAPES, None))
    assert none.how == IMPOSSIBLE
    assert "No layer here has channels" in none.answer
    assert none.factor is None
    assert "no compiler" in compiled_answer(Compiled(None, 0.0, "no compiler")).answer


def test_fewer_channels_are_never_the_first_move() -> None:
    chosen = [Representative(linear(64), ("a", "b"))]
    sampled = Sample((2.0,), (0.1,))
    answer = half_answer(Known("x", TAKEN, NOW, chosen, SHAPES, sampled))
    assert answer.factor is not None
    assert answer.factor.value < 0.5
    assert Preflight("eager float32", 1, 2, 1.0, (answer,)).first_move is None


@pytest.mark.parametrize(
    ("factor", "word"),
    [
        (Ratio(0.5, 0.4, 0.6, False), "Yes: 2.00"),
        (Ratio(0.9, 0.7, 1.2, False), "Probably"),
        (Ratio(1.0, 0.9, 1.1, False), "Hardly"),
        (Ratio(2.0, 1.8, 2.2, False), "No: 0.50"),
    ],
)
def test_answers_begin_with_a_word(factor: Ratio, word: str) -> None:
    assert worth(factor).startswith(word)


def answer(move: str, value: float) -> Answer:
    factor = Ratio(value, value, value, False)
    return Answer(move, "?", "Yes", factor, MEASURED, "Raced")


def test_the_first_move_is_the_fastest() -> None:
    slow, fast = answer("float32 in x", 0.8), answer("int8 in x", 0.3)
    found = Preflight("eager float32", 1, 2, 3.0, (slow, fast))
    assert found.first_move == "int8 in x"
    assert "int8 in x" in str(found)
    assert Preflight("eager float32", 1, 2, 3.0, (answer("x", 0.97),)).first_move is None


def test_a_preflight_is_json_both_ways_with_what_was_found() -> None:
    found = Preflight("eager float32", 1, 2, 3.0, (answer("a", 0.5), answer("b", 0.6)))
    judged = found.with_found({"b": Ratio(0.7, 0.6, 0.8, False)})
    assert [one.found is None for one in judged.answers] == [True, False]
    again = Preflight.from_json(json.loads(json.dumps(judged.to_json())))
    assert again == judged
    with pytest.raises(Damaged, match="no preflight's record"):
        Preflight.from_json({"reference": "x"})

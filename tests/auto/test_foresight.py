"""What a run does with a preflight: predictions stand beside what was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from burnish.bench import Ratio
from burnish.profile import Answer, Preflight
from tests.auto.made_up import MadeUp, by_precision, goal, keys_of, quietly, trained

pytestmark = pytest.mark.usefixtures("quick")


def answer(move: str, value: float) -> Answer:
    factor = Ratio(value, 0.9 * value, 1.1 * value, False)
    return Answer(move, "?", "Yes", factor, "estimated", "")


def run(folder: Path, foreseen: Preflight | None, **budget: Any) -> Any:
    bench = MadeUp(by_precision(2.0, 1.0), foreseen=foreseen)
    return quietly(trained(), goal(**budget), bench, folder / "run").report


def foreseen(reference: str) -> Preflight:
    moves = {"int8 in onnxruntime": 0.4, "float32 in openvino": 0.7, "half the channels": 0.5}
    answers = tuple(answer(move, value) for move, value in moves.items())
    return Preflight(reference, 1, 1, 2.0, answers)


def test_predictions_stand_beside_what_was_found(tmp_path: Path) -> None:
    record = run(tmp_path, foreseen("onnxruntime float32"))["preflight"]
    assert record["first_move"] == "int8 in onnxruntime"
    found = {row["move"]: row["found"] for row in record["answers"]}
    assert found["int8 in onnxruntime"]["value"] == pytest.approx(0.5, rel=0.02)
    assert found["float32 in openvino"] is None  # no candidate made that move
    assert found["half the channels"] is None


def test_a_reference_that_was_not_timed_judges_nothing(tmp_path: Path) -> None:
    record = run(tmp_path, foreseen("eager float32"))["preflight"]
    assert all(row["found"] is None for row in record["answers"])


def test_a_short_allowance_leaves_it_out(tmp_path: Path) -> None:
    assert run(tmp_path, foreseen("onnxruntime float32"), minutes=1.5)["preflight"] is None
    assert not any(key.startswith("preflight") for key in keys_of(tmp_path / "run"))

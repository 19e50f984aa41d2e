"""Getting quality back: which operators leave int8, in which order, and which come back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.auto._recover import (
    SLOWER,
    Sought,
    climb,
    reverted_cost,
    slower_in_int8,
)
from burnish.auto._steps import STEPS
from burnish.auto._trial import Built, Variant
from burnish.auto._workshop import Workshop
from burnish.quantize import QuantizeStatic, Sensitivity
from burnish.quantize._sensitivity.table import SensitivityRow
from burnish.recipe import load_history, replay
from tests.auto.made_up import (
    OPERATORS,
    MadeUp,
    by_precision,
    candidate,
    data,
    goal,
    quietly,
    task,
    trained,
    two_channels,
    with_outliers_at_the_input,
    with_outliers_inside,
)

INT8 = "onnxruntime int8, 1 thread"

# --- whole runs


def excluded(record: Mapping[str, Any], label: str) -> list[str]:
    """What a candidate leaves in float, by its history."""
    (applied,) = candidate(record, label)["history"]
    assert applied["step"] == "QuantizeStatic"
    return sorted(applied["settings"]["exclude"])


@pytest.mark.usefixtures("quick")
def test_one_layer_that_int8_ruins_is_the_one_that_goes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("burnish.auto._search.REFINEMENTS", ("refined", "learned"))
    bench = MadeUp(by_precision(2, 1))
    record = quietly(with_outliers_at_the_input(), goal(task(2)), bench, tmp_path / "run").report
    assert candidate(record, INT8)["verdict"]["state"] == "fails"
    pick = record["pick"]["label"]
    assert "1 in float" in pick
    assert excluded(record, pick) == ["first:conv2d"]
    assert candidate(record, pick)["verdict"]["state"] == "holds"
    assert candidate(record, pick)["precision"] == "mixed"
    assert candidate(record, pick)["num_int8"] == 3
    assert record["pick"]["state"] == "verified"
    told = [note["what"] for note in record["recovery"] if note["label"] == INT8]
    assert told[0] == "refined, with every operator still in int8: fails"
    assert told[1] == "learned, with every operator still in int8: fails"
    assert told[2].startswith("ranked 4 operators, first first:conv2d")
    assert "1 operator in float: holds" in told


@pytest.mark.usefixtures("quick")
def test_a_pair_that_only_together_regains_quality_is_found(tmp_path: Path) -> None:
    """The value between two layers is ruined for as long as either of them is in int8."""
    bench = MadeUp(by_precision(2, 1))
    record = quietly(with_outliers_inside(), goal(), bench, tmp_path / "run").report
    pick = record["pick"]["label"]
    assert excluded(record, pick) == ["second:conv2d", "third:conv2d"]
    assert candidate(record, pick)["verdict"]["state"] == "holds"
    told = [note["what"] for note in record["recovery"]]
    assert told[-2:] == ["1 operator in float: fails", "2 operators in float: holds"]


@pytest.mark.usefixtures("quick")
def test_a_recovered_model_that_is_slower_is_not_picked(tmp_path: Path) -> None:
    def seconds(key: str, threads: int) -> float:
        return 1e-3 * (3 if "-but-" in key else 1 if "int8" in key else 2)

    record = quietly(
        with_outliers_at_the_input(), goal(task(2)), MadeUp(seconds), tmp_path / "run"
    ).report
    assert record["pick"]["label"] == "onnxruntime float32, 1 thread"
    assert [c["label"] for c in record["candidates"] if "-but-" in c["folder"]]


SLOW = {"second:conv2d": 9e-4}


def operator_seconds(key: str) -> dict[str, float]:
    """In int8 all operators are twice as fast, but the second takes three times as long."""
    usual = dict.fromkeys(OPERATORS, 3e-4)
    return dict.fromkeys(OPERATORS, 1.5e-4) | SLOW if "int8" in key else usual


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("reverted", "picked"), [(0.8, "1 in float"), (1.2, "int8, 1 thread")])
def test_an_operator_slower_in_int8_goes_back_for_free(
    tmp_path: Path, reverted: float, picked: str
) -> None:
    """Where the whole gets no faster by it, the whole stays in int8."""

    def seconds(key: str, threads: int) -> float:
        return 1e-3 * (reverted if "-but-" in key else 1 if "int8" in key else 2)

    bench = MadeUp(seconds, operator_seconds)
    record = quietly(trained(), goal(), bench, tmp_path / "run").report
    (mixed,) = (item for item in record["candidates"] if item["precision"] == "mixed")
    assert excluded(record, mixed["label"]) == ["second:conv2d"]
    assert picked in record["pick"]["label"]
    (note,) = record["recovery"]
    assert note["what"].startswith(
        "1 operator is slower in int8 than in float (second:conv2d), 600 us"
    )


@pytest.mark.usefixtures("quick")
def test_nothing_is_reverted_where_all_are_faster_or_all_are_slower(tmp_path: Path) -> None:
    for number, factor in enumerate((0.5, 3.0)):
        bench = MadeUp(
            by_precision(2, 1),
            lambda key, factor=factor: dict.fromkeys(  # type: ignore[misc]
                OPERATORS, 1e-4 * (factor if "int8" in key else 1)
            ),
        )
        record = quietly(trained(), goal(), bench, tmp_path / f"{number}").report
        assert len(record["candidates"]) == 2
        assert record["recovery"] == []


@pytest.mark.usefixtures("quick")
def test_a_refinement_that_holds_is_taken_before_any_layer_goes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def static(variant: Variant) -> QuantizeStatic:
        """A refinement that does know better: it leaves the ruined layer in float."""
        if variant.recipe == "static":
            return QuantizeStatic(variant.runtime, exclude=variant.exclude)
        assert variant.recipe == "refined"
        return QuantizeStatic(variant.runtime, exclude=("first",), bias_correction="sequential")

    monkeypatch.setattr("burnish.auto._recipes._static", static)
    model, run = with_outliers_at_the_input(), tmp_path / "run"
    record = quietly(model, goal(task(2)), MadeUp(by_precision(2, 1)), run).report
    assert candidate(record, INT8)["verdict"]["state"] == "fails"
    assert record["pick"]["label"] == "onnxruntime int8 refined, 1 thread"
    assert [note["what"] for note in record["recovery"]] == [
        "refined, with every operator still in int8: holds"
    ]
    history = load_history(run / "candidates" / "onnxruntime-int8-refined")
    again = replay(model, history, STEPS)
    images = two_channels(data("validation", 400))[0]
    agree = (again(images).argmax(1) == model(images).argmax(1)).float().mean()
    assert agree > 0.98


@pytest.mark.usefixtures("quick")
def test_what_each_operator_costs_alone_is_in_the_report(tmp_path: Path) -> None:
    record = quietly(trained(), goal(), MadeUp(by_precision(2, 1)), tmp_path / "run").report
    rows = record["sensitivity"][INT8]
    assert {row["operator"] for row in rows} == set(OPERATORS)
    errors = [row["output_error"] for row in rows]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] > 0
    assert all(-1 <= row["metric_change"] <= 1 for row in rows)


# --- what is slower in int8


def test_slower_is_slower_beyond_doubt_and_known_on_both_sides() -> None:
    floats = {"a": 1.0, "b": 1.0, "c": 1.0, "e": 1.0}
    int8 = {"a": SLOWER + 0.01, "b": SLOWER - 0.01, "c": 0.5, "d": 9.0}
    assert slower_in_int8(floats, int8, ("a", "b", "c", "d", "e")) == ("a",)
    assert reverted_cost(floats, int8) == {
        "a": pytest.approx(1 - SLOWER - 0.01),
        "b": pytest.approx(1 - SLOWER + 0.01),
        "c": 0.5,
    }


# --- the ladder, on made-up worlds


@dataclass
class World:
    """Stands for a workshop: a variant is good where `good` says so of what it leaves in float.

    `errors` are what each operator costs alone.
    """

    good: Callable[[frozenset[str]], bool]
    errors: Mapping[str, float]
    refused: frozenset[str] = frozenset()
    built: list[frozenset[str]] = field(default_factory=list)

    def sensitivity(self, variant: Variant) -> Sensitivity:
        rows = [
            SensitivityRow(name, "conv2d", error, None, error, 0.0)
            for name, error in self.errors.items()
            if name not in variant.exclude
        ]
        return Sensitivity(tuple(rows), "output error", 1)

    def build(self, variant: Variant) -> Built | None:
        floats = frozenset(variant.exclude)
        if floats not in self.built:
            self.built.append(floats)
        if floats == self.refused:
            return None
        return self.answered(floats)

    def answered(self, floats: frozenset[str]) -> Built:
        state = "holds" if self.good(floats) else "fails"
        variant = Variant("onnxruntime", "int8", tuple(sorted(floats)))
        rest = tuple(sorted(self.errors.keys() - floats))
        return Built(variant, cast(Any, None), {}, {"state": state}, None, 0.0, rest, 9, ())

    def climb(
        self,
        cost: Mapping[str, float] | None = None,
        time_left: Callable[[], bool] = lambda: True,
    ) -> Sought:
        start = self.answered(frozenset())
        return climb(cast(Workshop, self), start, cost or {}, time_left, lambda built: built.holds)


NAMES = tuple("abcdefghij")


@given(
    culprits=st.sets(st.sampled_from(NAMES), min_size=1, max_size=9),
    errors=st.fixed_dictionaries({name: st.floats(0, 1) for name in NAMES}),
    cost=st.dictionaries(st.sampled_from(NAMES), st.floats(-1e-3, 1e-3)),
)
def test_whatever_the_order_the_culprits_are_found_and_no_more(
    culprits: set[str], errors: dict[str, float], cost: dict[str, float]
) -> None:
    """Where quality holds if and only if all culprits are in float, that is what is found.

    Unless the ranking put one of them last of all: reverting everything is no int8 model.
    """
    world = World(lambda floats: culprits <= floats, errors)
    sought = world.climb(cost)
    if sought.found is None:
        assert all(not culprits <= floats for floats in world.built)
        assert max(len(floats) for floats in world.built) == len(NAMES) - 1
    else:
        assert set(sought.found.variant.exclude) == culprits
        assert sought.found.holds
    assert len(world.built) <= 2 * 4 + len(NAMES)


@given(good=st.sets(st.frozensets(st.sampled_from("abcdef")), max_size=20))
def test_what_is_found_is_good_however_unruly_the_world(good: set[frozenset[str]]) -> None:
    world = World(lambda floats: floats in good, dict.fromkeys("abcdef", 0.1))
    sought = world.climb()
    assert sought.found is None or frozenset(sought.found.variant.exclude) in good


def test_the_first_to_go_regains_most_for_its_cost() -> None:
    """`a` regains most, `b` half of it at a tenth of the cost."""
    world = World(lambda floats: bool(floats & {"a", "b"}), {"a": 1.0, "b": 0.5, "c": 0.1})
    sought = world.climb({"a": 1e-4, "b": 1e-5, "c": 1e-4})
    assert sought.steps[0] == "ranked 3 operators, first b, a, c"
    assert sought.found is not None
    assert sought.found.variant.exclude == ("b",)


def test_an_operator_no_counter_tells_of_costs_what_is_usual() -> None:
    world = World(lambda floats: "a" in floats, {"a": 1.0, "b": 0.5, "c": 0.2})
    sought = world.climb({"a": 1e-4, "c": 1e-4})
    assert sought.steps[0] == "ranked 3 operators, first a, b, c"


def test_an_operator_that_is_faster_in_float_goes_first() -> None:
    world = World(lambda floats: "c" in floats, {"a": 1.0, "b": 0.5, "c": 0.2})
    sought = world.climb({"a": 1e-4, "b": 1e-4, "c": -1e-4})
    assert sought.steps[0].startswith("ranked 3 operators, first c")


def test_a_rung_that_cannot_be_built_does_not_hold() -> None:
    world = World(lambda floats: True, {"a": 3.0, "b": 2.0, "c": 1.0}, refused=frozenset("a"))
    sought = world.climb()
    assert "1 operator in float: failed" in sought.steps
    assert sought.found is not None
    assert sought.found.variant.exclude == ("b",)


def test_what_turns_out_unnecessary_is_put_back() -> None:
    world = World(lambda floats: "d" in floats, {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0, "e": 0.0})
    sought = world.climb()
    assert sought.found is not None
    assert sought.found.variant.exclude == ("d",)
    assert sought.steps[-1] == "a turned out unnecessary: back in int8"


def test_nothing_is_tried_without_an_operator_to_spare() -> None:
    world = World(lambda floats: False, {"a": 1.0})
    sought = world.climb()
    assert sought.found is None
    assert world.built == []
    assert sought.steps == ("its one int8 operator is all there is to revert",)


@pytest.mark.parametrize("asked", range(24))
def test_whenever_time_runs_out_no_more_is_built_and_the_best_so_far_is_kept(asked: int) -> None:
    culprits = {"c", "d"}
    errors = {name: 1.0 / (1 + index) for index, name in enumerate("dabcefgh")}
    world = World(lambda floats: culprits <= floats, errors)
    left = [asked]
    built_at_end = [0]

    def time_left() -> bool:
        left[0] -= 1
        if left[0] == 0:
            built_at_end[0] = len(world.built)
        return left[0] > 0

    sought = world.climb(time_left=time_left)
    held = [floats for floats in world.built if culprits <= floats]
    if left[0] <= 0:
        assert len(world.built) == built_at_end[0]
    if held:
        assert sought.found is not None
        assert set(sought.found.variant.exclude) == min(held, key=len)
    else:
        assert sought.found is None
        assert sought.steps

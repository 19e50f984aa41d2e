"""Allocation: against trying every combination, and what is refused."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence

import pytest

from burnish.core import Allocation, Option, Seam, allocate
from burnish.core._allocate import Minimise
from burnish.errors import Infeasible, InvalidInput

Options = dict[str, dict[str, Option]]


def drawn(seed: int) -> tuple[Options, list[Seam]]:
    """A few layers with options of very different losses, and seams between some of them."""
    dice = random.Random(seed)
    layers = [f"layer{index}" for index in range(dice.randint(1, 6))]
    options = {
        layer: {
            precision: Option(dice.random(), dice.random() * 10 ** dice.randint(-7, 0), form)
            for precision, form in (("a", "float"), ("b", "int8"), ("c", dice.choice("de")))
            if precision == "a" or dice.random() < 0.8
        }
        for layer in layers
    }
    seams = [
        Seam(dice.choice(layers), dice.choice(layers), 0.3 * dice.random())
        for _ in range(dice.randint(0, 5))
    ]
    return options, seams


def sums(
    options: Options, precisions: Mapping[str, str], seams: Sequence[Seam]
) -> dict[str, float]:
    """Cost and loss of an allocation, written out."""
    chosen = {layer: options[layer][precision] for layer, precision in precisions.items()}
    cost = sum(option.cost for option in chosen.values())
    for seam in seams:
        if chosen[seam.one].form != chosen[seam.other].form:
            cost += seam.cost
    return {"cost": cost, "loss": sum(option.loss for option in chosen.values())}


def best(options: Options, limit: float, minimise: str, seams: Sequence[Seam]) -> float | None:
    """The least that any combination within the limit has."""
    limited = "cost" if minimise == "loss" else "loss"
    found = []
    for combination in itertools.product(*options.values()):
        told = sums(options, dict(zip(options, combination, strict=True)), seams)
        if told[limited] <= limit:
            found.append(told[minimise])
    return min(found, default=None)


@pytest.mark.parametrize("minimise", ["loss", "cost"])
@pytest.mark.parametrize("seed", range(16))
def test_it_is_the_best_of_all_combinations(seed: int, minimise: Minimise) -> None:
    options, seams = drawn(seed)
    limit = random.Random(seed).random() * len(options) * (0.6 if minimise == "loss" else 0.1)
    wanted = best(options, limit, minimise, seams)
    if wanted is None:
        with pytest.raises(Infeasible):
            allocate(options, limit, minimise, seams)
        return
    found = allocate(options, limit, minimise, seams)
    told = sums(options, found.chosen, seams)
    assert told[minimise] == pytest.approx(wanted, rel=1e-9)
    assert told["cost" if minimise == "loss" else "loss"] <= limit
    assert (found.cost, found.loss) == pytest.approx((told["cost"], told["loss"]), rel=1e-12)
    assert found.gap == 0.0


def test_a_gap_that_is_allowed_is_told_and_kept() -> None:
    dice = random.Random(5)
    options = {
        f"layer{index}": {str(cost): Option(cost, dice.random() / (1 + cost)) for cost in range(40)}
        for index in range(12)
    }
    exact, near = allocate(options, 200.0), allocate(options, 200.0, gap=0.1)
    assert near.cost <= 200
    assert exact.loss <= near.loss <= exact.loss / (1 - near.gap) + 1e-12
    assert 0 <= near.gap <= 0.1
    with pytest.raises(InvalidInput, match=r"gap=1\.0"):
        allocate(options, 200.0, gap=1.0)


def test_a_tiny_loss_counts_beside_a_huge_one() -> None:
    """The scale of what nobody would choose does not hide what is chosen between."""
    options: Options = {
        f"layer{index}": {
            "precise": Option(2.0, 0.0),
            "cheap": Option(1.0, 1e-12 * (index + 1)),
            "ruinous": Option(0.5, 1e3),
        }
        for index in range(6)
    }
    found = allocate(options, 9.0)
    cheap = [name for name, precision in found.chosen.items() if precision == "cheap"]
    assert cheap == ["layer0", "layer1", "layer2"]


def test_a_seam_keeps_neighbours_in_one_form() -> None:
    def layer(loss: float) -> dict[str, Option]:
        return {"float32": Option(2.0, 0.0, "float"), "int8": Option(1.0, loss, "int8")}

    options = {"first": layer(0.1), "second": layer(0.3), "third": layer(0.1)}
    apart = allocate(options, 4.0)
    assert apart.chosen == {"first": "int8", "second": "float32", "third": "int8"}
    seams = [Seam("first", "second", 0.6), Seam("second", "third", 0.6)]
    together = allocate(options, 4.0, seams=seams)
    assert set(together.chosen.values()) == {"int8"}
    assert together.seams == 0.0
    with pytest.raises(Infeasible):
        allocate({"first": layer(0.1)}, 0.5)


def test_a_limit_that_is_met_exactly_is_met() -> None:
    options = {f"layer{i}": {"a": Option(0.1, 1.0), "b": Option(0.3, 0.0)} for i in range(10)}
    limit = sum([0.1] * 5 + [0.3] * 5)
    assert allocate(options, limit).loss == 5.0
    assert allocate(options, math.inf).loss == 0.0
    assert allocate(options, 0.0, "cost").cost == pytest.approx(3.0)


@pytest.mark.parametrize("minimise", ["loss", "cost"])
def test_what_cannot_be_kept_tells_the_nearest(minimise: str) -> None:
    options = {
        "one": {"a": Option(3.0, 0.5), "b": Option(2.0, 0.7)},
        "two": {"a": Option(5.0, 0.2)},
    }
    with pytest.raises(Infeasible, match="the least that 2 layers can have is") as refusal:
        allocate(options, 0.1, minimise)  # type: ignore[arg-type]
    nearest = refusal.value.result
    assert isinstance(nearest, Allocation)
    if minimise == "loss":
        assert (nearest.chosen["one"], nearest.cost) == ("b", 7.0)
        assert "7" in str(refusal.value)
    else:
        assert nearest.chosen["one"] == "a"
        assert nearest.loss == pytest.approx(0.7)


@pytest.mark.parametrize("wrong", [math.nan, -1.0, math.inf, None, "1"])
@pytest.mark.parametrize("field", ["cost", "loss"])
def test_a_figure_that_is_none_names_its_layer(field: str, wrong: object) -> None:
    good = {"float32": Option(1.0, 0.0)}
    values = {"cost": 1.0, "loss": 0.0, field: wrong}
    bad = {"float32": Option(1.0, 0.0), "int8": Option(**values)}  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=f"the {field} of block.conv:conv2d in int8"):
        allocate({"good": good, "block.conv:conv2d": bad}, 1.0)


def test_what_makes_no_program_is_refused() -> None:
    options = {"one": {"a": Option(1.0, 0.0)}}
    with pytest.raises(InvalidInput, match="no layers"):
        allocate({}, 1.0)
    with pytest.raises(InvalidInput, match="'two' has no option"):
        allocate({**options, "two": {}}, 1.0)
    for limit in (math.nan, -1.0):
        with pytest.raises(InvalidInput, match="limit"):
            allocate(options, limit)
    with pytest.raises(InvalidInput, match="minimise"):
        allocate(options, 1.0, "time")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="'three', which is no layer"):
        allocate(options, 1.0, seams=[Seam("one", "three", 1.0)])


def test_hundreds_of_layers_are_allocated_to_the_end() -> None:
    dice = random.Random(0)
    options = {
        f"layer{index}": {
            "float32": Option(dice.random(), 0.0, "float"),
            "int8": Option(0.4 * dice.random(), 0.01 * dice.random(), "int8"),
        }
        for index in range(80)
    }
    seams = [Seam(f"layer{i}", f"layer{i + 1}", 0.02) for i in range(79)]
    found = allocate(options, 24.0, seams=seams)
    assert found.cost <= 24.0
    assert found.gap == 0.0

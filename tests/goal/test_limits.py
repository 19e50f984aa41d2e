"""Targets, budgets and measurements refuse what makes no sense and survive JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from burnish.errors import InvalidInput
from burnish.goal import Budget, Measurement, Target


@pytest.mark.parametrize(
    "settings",
    [
        {"device": "tpu"},
        {"threads": 0},
        {"threads": -1},
        {"threads": 1.5},
        {"threads": "2"},
        {"threads": True},
        {"batch": 0},
        {"batch": 2.0},
    ],
)
def test_target_refuses_and_names_the_setting(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(InvalidInput, match=rf"Target\({name}="):
        Target(**settings)


def test_one_runtime_may_be_given_bare() -> None:
    assert Target(runtimes="openvino").runtimes == ("openvino",)  # type: ignore[arg-type]
    assert Target(runtimes=["eager", "openvino"]).runtimes == ("eager", "openvino")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings",
    [
        {"max_drop": -0.1},
        {"max_drop": float("nan")},
        {"max_drop": float("inf")},
        {"max_drop": "1%"},
        {"max_drop": True},
        {"minimise": "speed"},
        {"minutes": 0},
        {"minutes": -1.0},
        {"minutes": float("nan")},
        {"minutes": "20"},
        {"confidence": 1.0},
        {"confidence": 0.5},
        {"confidence": 95},
        {"limits": {"watts": 3.0}},
        {"limits": {"size_mb": 0.0}},
        {"limits": {"size_mb": float("nan")}},
        {"limits": {"size_mb": "10"}},
    ],
)
def test_budget_refuses_and_names_the_setting(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(InvalidInput, match=rf"Budget\({name}"):
        Budget(**settings)


def test_budget_takes_any_number_and_no_time_limit() -> None:
    budget = Budget(max_drop=np.float32(0.5), minutes=None, limits={"size_mb": 3})  # type: ignore[arg-type]
    assert (budget.max_drop, budget.minutes, dict(budget.limits)) == (0.5, None, {"size_mb": 3.0})
    assert Budget(max_drop=0) == Budget(max_drop=0.0)
    assert isinstance(Budget(max_drop=0).max_drop, float)
    assert hash(Budget()) == hash(Budget(max_drop=0.01))


def test_budget_is_cut_off_from_the_callers_dict() -> None:
    limits = {"size_mb": 3.0}
    budget = Budget(limits=limits)
    limits["memory_mb"] = 1.0
    assert dict(budget.limits) == {"size_mb": 3.0}
    with pytest.raises(TypeError):
        budget.limits["size_mb"] = 1.0  # type: ignore[index]


@pytest.mark.parametrize("ratio", [None, (0.5, 0.4, 0.6)])
def test_measurement_survives_json(ratio: tuple[float, float, float] | None) -> None:
    measured = Measurement(
        "latency", 4.5, "ms", 4.0, 5.0, 40, "openvino on cpu", "abc", "eager float32", ratio
    )
    assert Measurement.from_json(json.loads(json.dumps(measured.to_json()))) == measured

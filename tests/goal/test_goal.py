"""The fingerprint: other for every setting, the same for the same goal anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from burnish.errors import InvalidInput
from burnish.goal import Budget, Goal, Inputs, Target, Task
from burnish.metrics import Metric

METRIC = Metric("closeness", lambda output, target: -(output - target).abs(), "continuous")


def make_goal() -> Goal:
    """Everything but the defaults, without randomness."""
    x = torch.arange(24, dtype=torch.float32).reshape(4, 2, 3)
    task = Task(
        Inputs(x[:2], {"deep": False}, dynamic={"0": {2: "length"}}),
        METRIC,
        validation=[(x, 0)],
        test=[(x + 100, 0)],
    )
    target = Target(runtimes=("openvino",), threads=2, batch=4)
    return Goal(task, target, Budget(limits={"size_mb": 10.0}), seed=3)


def _fingerprint(goal: Goal) -> str:
    return goal.fingerprint(goal.census())


def _task(**changes: Any) -> Goal:
    goal = make_goal()
    return replace(goal, task=replace(goal.task, **changes))


def _budget(**changes: Any) -> Goal:
    goal = make_goal()
    return replace(goal, budget=replace(goal.budget, **changes))


def _target(**changes: Any) -> Goal:
    goal = make_goal()
    return replace(goal, target=replace(goal.target, **changes))


X = torch.arange(24, dtype=torch.float32).reshape(4, 2, 3)
OTHERS = {
    "metric's name": _task(metric=replace(METRIC, name="other")),
    "metric's version": _task(metric=replace(METRIC, version="2")),
    "metric's direction": _task(metric=replace(METRIC, higher_is_better=False)),
    "metric's kind": _task(metric=replace(METRIC, kind="set")),
    "axes": _task(inputs=Inputs(X[:2], {"deep": False}), validation=[X], test=[X + 100]),
    "axis's name": _task(inputs=Inputs(X[:2], {"deep": False}, dynamic={"0": {2: "width"}})),
    "example's size": _task(inputs=Inputs(X, {"deep": False}, dynamic={"0": {2: "length"}})),
    "constant": _task(inputs=Inputs(X[:2], {"deep": True}, dynamic={"0": {2: "length"}})),
    "first sample": _task(validation=[(torch.cat([X[:1] + 0.5, X[1:]]), 0)]),
    "last sample": _task(validation=[(torch.cat([X[:3], X[3:] + 0.5]), 0)]),
    "length": _task(test=[(X[[0, 3]] + 100, 0)]),
    "no test data": _task(test=None),
    "calibration": _task(calibration=[(X, 0)]),
    "device": _target(device="gpu"),
    "runtimes": _target(runtimes=()),
    "threads": _target(threads=1),
    "no threads": _target(threads=None),
    "batch": _target(batch=1),
    "max_drop": _budget(max_drop=0.02),
    "relative": _budget(relative=True),
    "objective": _budget(minimise="size"),
    "confidence": _budget(confidence=0.9),
    "accept_undecided": _budget(accept_undecided=True),
    "limit": _budget(limits={"size_mb": 11.0}),
    "limits": _budget(limits={}),
    "seed": replace(make_goal(), seed=4),
}


def test_every_setting_and_datum_makes_another_fingerprint() -> None:
    prints = {"goal": _fingerprint(make_goal())} | {k: _fingerprint(g) for k, g in OTHERS.items()}
    by_print: dict[str, list[str]] = {}
    for name, value in prints.items():
        by_print.setdefault(value, []).append(name)
    assert [names for names in by_print.values() if len(names) > 1] == []


@pytest.mark.parametrize("minutes", [1, 600.0, None])
def test_more_minutes_are_the_same_goal(minutes: float | None) -> None:
    assert _fingerprint(_budget(minutes=minutes)) == _fingerprint(make_goal())


def test_equal_numbers_of_another_type_are_the_same_goal() -> None:
    assert _fingerprint(_budget(limits={"size_mb": 10})) == _fingerprint(make_goal())


def test_settings_are_plain_json() -> None:
    settings = make_goal().settings()
    assert json.loads(json.dumps(settings)) == settings


def test_the_fingerprint_is_the_same_in_another_process(root: Path) -> None:
    code = (
        "import runpy; g = runpy.run_path('tests/goal/test_goal.py')['make_goal'](); "
        "print(g.fingerprint(g.census()))"
    )
    paths = {"PYTHONPATH": str(root / "src"), "PYTHONHASHSEED": "77"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env=os.environ | paths,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == _fingerprint(make_goal())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"seed": -1}, "seed=-1"),
        ({"seed": 0.5}, "seed=0.5"),
        ({"budget": 0.01}, "Goal.budget=….*float.*burnish.Budget"),
        ({"target": "cpu"}, "Goal.target=….*str.*burnish.Target"),
        ({"task": torch.zeros(2)}, "Goal.task=….*Tensor.*burnish.Task"),
    ],
)
def test_parts_of_another_kind_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        replace(make_goal(), **settings)

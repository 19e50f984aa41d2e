"""The whole job: a model and a goal in, a verified artifact out.

    check everything → open the run folder → search → pick → look at the test data once
                     → bundle → report

Anything wrong with model, data, metric or settings is said before work begins. The run folder is
the memory: killed at any moment, the same call carries on.

Left out: more than one machine.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from burnish.auto._bench import Bench, RealBench
from burnish.auto._console import Narrator
from burnish.auto._pick import Pick, choose, judge
from burnish.auto._record import report_record
from burnish.auto._result import Result
from burnish.auto._search import Search
from burnish.auto._workshop import Workshop
from burnish.bench import Environment
from burnish.bundle import Bundle
from burnish.core import model_hash
from burnish.errors import Infeasible, InvalidInput, MissingExtra
from burnish.goal import Budget, Goal, Target, Task
from burnish.recipe import Store
from burnish.report import report
from burnish.runtimes import available, load, runtime

RUNS = Path("burnish-runs")
# Compiling takes up to minutes for each artifact and thread count: only where a target names it.
ON_REQUEST = ("inductor",)


def optimize(
    model: nn.Module,
    task: Task | Goal,
    *,
    target: Target | None = None,
    budget: Budget | None = None,
    seed: int | None = None,
    name: str | None = None,
    run_folder: Path | str | None = None,
    bench: Bench | None = None,
    console: Console | None = None,
) -> Result:
    """Find the fastest artifact that keeps the model's quality.

    Args:
        model: a trained model; left as it was.
        task: the task, or a whole goal (then `target`, `budget` and `seed` replace its parts).
        target: device, runtimes, threads and batch to optimize for.
        budget: what may be lost, what is wanted, how long it may take.
        seed: of everything that is drawn.
        name: of the run; its folder is ./burnish-runs/NAME. Default: the model's class.
        run_folder: the folder itself, instead of `name`.
        bench: the clock; only tests need another.
        console: where progress is shown; the error stream unless told otherwise.

    Returns:
        The pick with its report; the run folder holds bundle and page.

    Raises:
        InvalidInput: unusable model, data, metric or settings, or a run folder of another run.
        Unsupported: the model cannot be exported; the message names the line.
        MissingExtra: the target names a runtime that is not installed.
        Infeasible: no candidate meets the budget; `result` holds the best that was found.
        Damaged: the run folder's journal, or an artifact in it, is damaged.
        BurnishError: the disk is full; what was measured is kept.
    """
    clock = bench or RealBench()
    start = clock.now()
    goal = _goal(task, target, budget, seed)
    _check(model, goal)
    runtimes = _runtimes(goal)
    narrator = Narrator(console)
    census = goal.census(narrator.watch)
    environment = Environment.capture()
    folder = Path(run_folder) if run_folder else RUNS / (name or type(model).__name__)
    identity = {
        "model": model_hash(model),
        "goal": goal.fingerprint(census),
        "environment": environment.fingerprint,
    }
    with Store.open(folder, identity) as store:
        if store.events():
            narrator.say(f"carrying on in {folder}: {len(store.events())} pieces of work are done")
        shop = Workshop(model, goal, store, clock, narrator)
        shop.check_metric()
        machine = environment.machine
        search = Search(shop, runtimes, machine.cores, machine.supports_bfloat16, start)
        search.run()
        return _finish(search, environment, type(model).__name__, identity["goal"])


def _finish(search: Search, environment: Environment, title: str, fingerprint: str) -> Result:
    store = search.shop.store
    trial, why = choose(search)
    if trial is None:
        record = report_record(search, None, environment, title, fingerprint)
        result = _written(store, record, "")
        raise Infeasible(_infeasible(search), result)
    pick = judge(search, trial, why)
    _bundle(search, pick, environment)
    record = report_record(search, pick, environment, title, fingerprint)
    return _written(store, record, pick.trial.label)


def _written(store: Store, record: dict[str, Any], pick: str) -> Result:
    store.write("report.json", json.dumps(record, indent=1, allow_nan=False))
    with store.writing(store.folder / "report.html"):
        report(store.folder)
    return Result(pick, store.folder, record)


def _infeasible(search: Search) -> str:
    """Why nothing is good enough, and what came nearest."""
    lines = [f"no candidate meets the budget; {search.found.stopped}"]
    near = sorted(search.found.trials.values(), key=search.objective)[:3]
    lines += [f"  {trial.label}: {search.acceptable(trial)}" for trial in near]
    lines += [f"  {label}: {reason}" for label, reason in list(search.shop.failures.items())[:3]]
    return "\n".join([*lines, f"the journal is kept in {search.shop.store.folder}"])


def _bundle(search: Search, pick: Pick, environment: Environment) -> None:
    shop, trial = search.shop, pick.trial
    inputs = shop.arrays(2)
    with load(trial.artifact) as worker:
        outputs = worker.run(inputs)
    race = search.found.races[trial.label]
    p50, low, high = race.latency(trial.label)
    ratio = search.found.ratio(trial.label)
    reference = search.found.reference
    expected: dict[str, Any] = {
        "validation": dict(trial.built.quality),
        "verdict": dict(trial.built.verdict),
        "test": pick.test,
        "state": pick.state,
        "latency_ms": {"value": p50 * 1e3, "low": low * 1e3, "high": high * 1e3},
        "ratio": None
        if ratio is None or reference is None
        else {**dataclasses.asdict(ratio), "reference": reference.label},
        "batch": search.goal.target.batch,
    }
    folder = shop.store.folder / "bundle"
    with shop.store.writing(folder):
        Bundle.write(
            folder,
            trial.artifact,
            check_inputs=inputs,
            check_outputs=outputs,
            expected=expected,
            history=[applied.to_json() for applied in shop.history(trial.built)],
            environment=environment.to_json(),
        )


def _goal(
    task: Task | Goal, target: Target | None, budget: Budget | None, seed: int | None
) -> Goal:
    if not isinstance(task, Task | Goal):
        raise InvalidInput(f"optimize needs a Task or a Goal, not a {type(task).__name__}")
    goal = task if isinstance(task, Goal) else Goal(task)
    changes = {"target": target, "budget": budget, "seed": seed}
    given = {name: value for name, value in changes.items() if value is not None}
    return dataclasses.replace(goal, **given)  # type: ignore[arg-type]


def _check(model: nn.Module, goal: Goal) -> None:
    if not isinstance(model, nn.Module):
        raise InvalidInput(f"the model is a {type(model).__name__}, not a torch.nn.Module")
    for split in ("calibration", "validation"):
        goal.task.data(split)


def _runtimes(goal: Goal) -> list[str]:
    """The runtimes to use. MissingExtra for one that was named and is not installed."""
    reasons = available()
    for name in goal.target.runtimes:
        runtime(name)
        reason = reasons[name]
        if reason is not None:
            raise MissingExtra(f"Target(runtimes=…) names {name}: {reason}")
    if goal.target.runtimes:
        return list(goal.target.runtimes)
    return [name for name, reason in reasons.items() if reason is None and name not in ON_REQUEST]

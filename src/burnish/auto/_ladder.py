"""The recovery ladder: bring a damaged model back to its original's quality, as cheaply as it goes.

A model that was pruned or rounded has lost some quality. The ladder tries what may bring it back,
the cheapest first (`_ladder_rungs`), each on top of the last that helped, and asks after each one
for the paired verdict against the original on the validation data. It stops at the first rung that
meets the budget. A rung whose figure is no better than that of the model it was given is taken
back; what it gave and cost is told all the same, and so is why a rung does not apply.

The wall-clock allowance is asked before each rung; a rung that has begun is not broken off.

The order after what the field found: statistics first (seconds, no labels), then least squares, and
distillation from the original before labels; see the card, docs/methods/recover.md.

Left out: going back to a cheaper rung after a dearer one; the same samples under two names in
calibration and validation data (one and the same object is refused).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from burnish.auto._ladder_rungs import RUNGS, Climb, Watch, looks_rounded
from burnish.auto._quality import Answers, answer, compare, eager
from burnish.core import Applied, Candidate, Choices, Rewrite, model_hash, settings_of
from burnish.distill import LogitMSE
from burnish.errors import Diverged, InvalidInput, NoEffect, Unsupported
from burnish.goal import Goal, Task
from burnish.graph import flatten
from burnish.metrics import Verdict
from burnish.train import Train, changed_state, load_state

KEEPS = ("zeros", "grid")
DISTILLING = Train(epochs=20, learning_rate=5e-4)
FINETUNING = Train(epochs=2, learning_rate=5e-4)
FEW = 512


@dataclass(frozen=True, eq=False)
class Rung:
    """What one rung gave and cost.

    `state` is "given" for the model as it came, "kept", "taken back" (its figure was no better),
    "skipped" (it does not apply) or "failed" (the training diverged); `note` says more. `figure` is
    the metric on the validation data, `gain` how much better it is than that of the model the rung
    was given, in the metric's own unit, and `seconds` the cost of the rung without the scoring.
    """

    name: str
    state: str
    seconds: float
    note: str
    figure: float | None = None
    gain: float | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True, eq=False)
class Recovery:
    """The best candidate the ladder found, and every rung that was tried.

    `met` says whether its verdict meets the budget, `original` is the teacher's own figure,
    `stopped` says why the ladder ended, and `notes` hold what else should be known.
    """

    candidate: Candidate
    met: bool
    original: float
    rungs: tuple[Rung, ...]
    stopped: str
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{'rung':<11} {'state':<10} {'figure':>9} {'gain':>9} {'seconds':>8}  verdict"]
        for rung in self.rungs:
            figure, gain = _number(rung.figure, ""), _number(rung.gain, "+")
            told = rung.note if rung.verdict is None else f"{rung.verdict.state}; {rung.note}"
            lines.append(
                f"{rung.name:<11} {rung.state:<10} {figure:>9} {gain:>9} {rung.seconds:>8.1f}  "
                f"{told}"
            )
        lines.append(f"{'original':<11} {'':<10} {_number(self.original, ''):>9}")
        return "\n".join([*lines, self.stopped, *self.notes])


@dataclass(frozen=True)
class Recover(Rewrite):
    """A rung that was kept, as a history holds it: what it changed is in the choices' tensors.

    Args:
        rung: its name.
        keep: what had to stay: "zeros" or "grid".
        original: the hash of the model it was recovered from (`core.model_hash`).
    """

    rung: str
    keep: str
    original: str

    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        """Unsupported: a rung is chosen with the original at hand, which a hash is not."""
        raise Unsupported(
            "a rung of the ladder is decided by burnish.auto.recover(candidate, teacher, goal); "
            "a history only replays what it changed"
        )

    def rewrite(self, model: nn.Module, choices: Choices) -> nn.Module:
        """The model with the tensors that were changed."""
        return load_state(model, choices.tensors)


def recover(
    candidate: Candidate,
    teacher: nn.Module,
    goal: Goal,
    *,
    keep: str = "zeros",
    rungs: Sequence[str] = tuple(RUNGS),
    signals: Sequence[Any] | None = None,
    distilling: Train = DISTILLING,
    finetuning: Train = FINETUNING,
    watch: Watch | None = None,
) -> Recovery:
    """Climb the ladder until the budget is met.

    Args:
        candidate: a pruned (masked) or rounded module, or a traced graph; left alone.
        teacher: the original it was made from, whose quality is to be met; left alone.
        goal: its budget decides what meets it, its task has the data: validation for the verdicts,
            calibration for the rungs without labels (where there is none, the first 512 samples of
            the train data), train and loss for fine-tuning.
        keep: "zeros": what is zero in a weight stays zero, so that a pruned model stays pruned;
            "grid": and every weight stays on the grid it was rounded to.
        rungs: which rungs, in which order; all four by default.
        signals: of distillation; mean squared error of the logits by default.
        distilling: how to train on the calibration data, without labels.
        finetuning: how to train on the train data.
        watch: wraps an iterable with a title, as a progress bar does.

    Raises:
        InvalidInput: a teacher whose outputs differ in number or shape from the candidate's, the
            same module twice, missing data, a setting out of range.
    """
    _check(candidate, teacher, keep, rungs, distilling, finetuning)
    goal = replace(goal, task=_with_calibration(goal.task))
    _check_data(goal.task)
    _same_outputs(candidate.model, teacher, goal.task)
    signals = (LogitMSE(),) if signals is None else tuple(signals)
    climb = Climb(candidate, teacher, goal, keep, signals, distilling, finetuning, watch)
    return _Ladder(climb).climbed(tuple(rungs))


class _Ladder:
    """The best so far, and what was tried."""

    def __init__(self, climb: Climb) -> None:
        self.climb = climb
        self.began = time.perf_counter()
        self.baseline = self._answers(climb.teacher)
        self.best, self.answers = climb.candidate, self._answers(climb.candidate.model)
        self.verdict = compare(climb.goal, self.baseline, self.answers)
        figure = self.answers.scores.figure
        self.told = [Rung("as given", "given", 0.0, self.verdict.reason, figure, 0.0, self.verdict)]
        self.notes: list[str] = []

    def climbed(self, names: tuple[str, ...]) -> Recovery:
        """Try each rung until one meets the budget."""
        stopped = "every rung was tried, and the budget is not met"
        if self.climb.keep == "zeros":
            self._note_rounding()
        for name in names:
            if self._met():
                break
            minutes = self.climb.goal.budget.minutes
            if minutes is not None and time.perf_counter() - self.began > 60 * minutes:
                stopped = f"the {minutes:g} minutes of the budget are over before {name}"
                break
            self.told.append(self._tried(name))
        if self._met():
            best = [rung.name for rung in self.told if rung.state in ("kept", "given")]
            stopped = f"the budget is met: {best[-1]}"
        original = self.baseline.scores.figure
        told, notes = tuple(self.told), tuple(self.notes)
        return Recovery(self.best, self._met(), original, told, stopped, notes)

    def _tried(self, name: str) -> Rung:
        start = time.perf_counter()
        try:
            model, note = RUNGS[name](self.best.model, self.climb)
        except (NoEffect, Unsupported) as error:
            return Rung(name, "skipped", time.perf_counter() - start, str(error))
        except Diverged as error:
            return Rung(name, "failed", time.perf_counter() - start, str(error))
        seconds = time.perf_counter() - start
        answers = self._answers(model)
        verdict = compare(self.climb.goal, self.baseline, answers)
        metric = self.climb.goal.task.metric
        figure, before = answers.scores.figure, self.answers.scores.figure
        gain = figure - before if metric.higher_is_better else before - figure
        if not gain > 0:
            return Rung(name, "taken back", seconds, note, figure, gain, verdict)
        tensors = changed_state(self.best.model, model)
        step = Recover(name, self.climb.keep, model_hash(self.climb.teacher))
        applied = Applied("Recover", settings_of(step), Choices({"note": note}, tensors))
        self.best = self.best.after(model, applied)
        self.answers, self.verdict = answers, verdict
        return Rung(name, "kept", seconds, note, figure, gain, verdict)

    def _met(self) -> bool:
        undecided = self.climb.goal.budget.accept_undecided and self.verdict.state == "cannot tell"
        return self.verdict.state == "holds" or undecided

    def _answers(self, model: nn.Module) -> Answers:
        return answer(eager(model), self.climb.goal, "validation", self.climb.watch)

    def _note_rounding(self) -> None:
        rounded = looks_rounded(self.climb.candidate.model)
        if rounded:
            more = f" and {len(rounded) - 1} more" if len(rounded) > 1 else ""
            self.notes.append(
                f"the weights of {rounded[0]}{more} repeat few values, as rounded ones do: repair "
                'and training move them off their grid; keep="grid" holds them there'
            )


def _number(value: float | None, sign: str) -> str:
    return "" if value is None else f"{value:{sign}.4f}"


def _check(
    candidate: Candidate,
    teacher: nn.Module,
    keep: str,
    rungs: Sequence[str],
    *trainings: Train,
) -> None:
    if not isinstance(candidate, Candidate):
        raise InvalidInput(
            f"recover() takes a burnish.core.Candidate, and was given a "
            f"{type(candidate).__name__}: Candidate(model)"
        )
    if not isinstance(teacher, nn.Module):
        raise InvalidInput(
            f"recover(teacher=…) is a {type(teacher).__name__}: give the original module"
        )
    if teacher is candidate.model:
        raise InvalidInput(
            "recover(): the teacher is the candidate's own model: give the original, as it was "
            "before it was pruned or rounded"
        )
    if keep not in KEEPS:
        raise InvalidInput(f"recover(keep={keep!r}): one of {', '.join(KEEPS)}")
    unknown = [name for name in rungs if name not in RUNGS]
    if unknown or not rungs or isinstance(rungs, str):
        raise InvalidInput(f"recover(rungs={rungs!r}): some of {', '.join(RUNGS)}")
    for name, how in zip(("distilling", "finetuning"), trainings, strict=True):
        if not isinstance(how, Train):
            raise InvalidInput(
                f"recover({name}=…) is a {type(how).__name__}: give how to train, as "
                "Train(epochs=2, learning_rate=5e-4)"
            )


def _with_calibration(task: Task) -> Task:
    """The task, its first train batches standing in for calibration data where it has none."""
    if task.calibration is not None:
        return task
    if task.train is None:
        raise InvalidInput(
            "recover() needs data to recover from: give Task(calibration=…), which needs no "
            "labels, or Task(train=…)"
        )
    few, num = [], 0
    for batch in task.train:
        few.append(batch)
        call = task.call(batch)
        leaves = task.inputs.bind(call.args, call.kwargs)
        axes = [(leaf.tensor, leaf.batch_axis()) for leaf in leaves]
        num += next((int(tensor.shape[axis]) for tensor, axis in axes if axis is not None), 1)
        if num >= FEW:
            break
    return replace(task, calibration=few)


def _check_data(task: Task) -> None:
    for fitted in ("calibration", "train"):
        for judged in ("validation", "test"):
            data = getattr(task, fitted)
            if data is not None and data is getattr(task, judged):
                raise InvalidInput(
                    f"the {fitted} data is also the {judged} data: a model that was fitted to it "
                    "says nothing there; give other samples"
                )


def _same_outputs(model: nn.Module, teacher: nn.Module, task: Task) -> None:
    """InvalidInput where the two answer the example call with other shapes."""
    shapes = []
    example = task.inputs
    for network in (model, teacher):
        with torch.no_grad():
            output = eager(network)(*example.args, **dict(example.kwargs))
        shapes.append([list(tensor.shape) for tensor in flatten(output)[0]])
    if shapes[0] != shapes[1]:
        raise InvalidInput(
            f"the candidate's outputs have the shapes {shapes[0]}, the teacher's {shapes[1]}: the "
            "teacher must be the model the candidate was made from"
        )

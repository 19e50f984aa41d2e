"""How good an artifact's answers are, and the verdict on it.

Answers come from the exported artifact in its worker, on the task's own data, through its own
hooks. The float model's are taken once, by torch, and every candidate is compared with them sample
by sample. Where outputs are class scores, the share of equal classes (agreement) is told too.

What is kept is plain JSON, so that a resumed run compares with the very same scores.

Left out: agreement for anything but class scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import nn

from burnish.bundle import Worker
from burnish.core import copied_model
from burnish.goal import Goal
from burnish.graph import Traced, flatten, flatten_call, unflatten
from burnish.metrics import Verdict, set_verdict, verdict
from burnish.train import Scores, evaluate


@dataclass(frozen=True, eq=False)
class Answers:
    """A split answered: the scores, and each sample's class where outputs are class scores."""

    scores: Scores
    classes: list[int] | None

    def to_json(self) -> dict[str, Any]:
        """All but the outputs a set metric keeps."""
        scores = self.scores
        return {
            "figure": scores.figure,
            "n": scores.n,
            "values": None if scores.values is None else scores.values.tolist(),
            "groups": None if scores.groups is None else scores.groups.tolist(),
            "classes": self.classes,
        }

    @classmethod
    def from_json(cls, goal: Goal, split: str, data: dict[str, Any]) -> Answers:
        """Read back what `to_json` wrote."""
        values, groups = data["values"], data["groups"]
        return cls(
            Scores(
                split,
                goal.task.metric.name,
                data["n"],
                data["figure"],
                None if values is None else np.asarray(values, dtype=np.float64),
                groups=None if groups is None else np.asarray(groups),
            ),
            data["classes"],
        )


def answer(run: Callable[..., Any], goal: Goal, split: str, watch: Any) -> Answers:
    """Let `run` answer a split. InvalidInput for a metric that returns nonsense."""
    classes: list[int] | None = []

    def noted(*args: Any, **kwargs: Any) -> Any:
        nonlocal classes
        output = run(*args, **kwargs)
        if classes is not None:
            seen = _classes(output)
            classes = None if seen is None else classes + seen
        return output

    with torch.inference_mode():
        scores = evaluate(noted, goal.task, split, watch=watch)
    return Answers(scores, classes if classes is not None and len(classes) == scores.n else None)


def through(worker: Worker, traced: Traced) -> Callable[..., Any]:
    """Call a worker as the original model was called."""

    def run(*args: Any, **kwargs: Any) -> Any:
        tensors = flatten_call(args, kwargs)
        arrays = {
            slot.name: tensor.detach().cpu().numpy()
            for slot, tensor in zip(traced.inputs, tensors, strict=True)
        }
        outputs = [torch.from_numpy(np.array(array)) for array in worker.run(arrays)]
        return unflatten(traced.tree, outputs)

    return run


def eager(model: nn.Module) -> Callable[..., Any]:
    """Call the original model, in eval mode."""
    training = any(module.training for module in model.modules())
    if training:
        model = copied_model(model).eval()
    return model


def compare(goal: Goal, baseline: Answers, candidate: Answers) -> Verdict:
    """The paired verdict at the budget's margin and confidence."""
    budget, metric = goal.budget, goal.task.metric
    before, after = baseline.scores, candidate.scores
    if metric.kind == "set":
        return set_verdict(
            metric,
            before.targets,
            before.outputs,
            after.outputs,
            max_drop=budget.max_drop,
            relative=budget.relative,
            confidence=budget.confidence,
            groups=before.groups,
            seed=goal.seed,
        )
    assert before.values is not None
    assert after.values is not None
    return verdict(
        before.values,
        after.values,
        max_drop=budget.max_drop,
        relative=budget.relative,
        confidence=budget.confidence,
        kind=metric.kind,
        higher_is_better=metric.higher_is_better,
        groups=before.groups,
        seed=goal.seed,
    )


def quality_json(goal: Goal, answers: Answers) -> dict[str, Any]:
    """The figure with its own interval (Wilson's for 0/1 scores, t for others; none for sets).

    With groups the interval is that of the group means.
    """
    scores = answers.scores
    low = high = None
    values = scores.values
    if values is not None and scores.groups is not None:
        _, index = np.unique(scores.groups, return_inverse=True)
        values = np.bincount(index, values) / np.bincount(index)
    if values is not None and len(values) > 1:
        if goal.task.metric.kind == "binary" and scores.groups is None:
            hits = round(float(values.sum()))
            interval = stats.binomtest(hits, len(values)).proportion_ci(
                goal.budget.confidence, method="wilson"
            )
            low, high = float(interval.low), float(interval.high)
        else:
            tail = stats.t.ppf(0.5 + goal.budget.confidence / 2, len(values) - 1)
            reach = float(tail * values.std(ddof=1) / np.sqrt(len(values)))
            low, high = scores.figure - reach, scores.figure + reach
    return {
        "split": scores.split,
        "metric": scores.metric,
        "value": scores.figure,
        "low": low,
        "high": high,
        "n": scores.n,
    }


def agreement(baseline: Answers, candidate: Answers) -> float | None:
    """The share of samples given the same class; None where outputs are no class scores."""
    if baseline.classes is None or candidate.classes is None:
        return None
    same = np.asarray(baseline.classes) == np.asarray(candidate.classes)
    return float(same.mean())


def verdict_json(found: Verdict) -> dict[str, Any]:
    """A verdict as plain JSON."""
    return asdict(found)


def _classes(output: Any) -> list[int] | None:
    tensors = flatten(output)[0]
    first = tensors[0] if tensors else None
    if first is None or first.dim() != 2 or not first.is_floating_point() or first.shape[1] < 2:
        return None
    return [int(index) for index in first.argmax(1)]

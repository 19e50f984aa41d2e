"""A goal: a task, a target, a budget and a seed, with a fingerprint.

The fingerprint covers what the answer depends on: the first and last sample and the length of each
split, the metric's name and version, and every setting. A run folder keeps it and refuses another.
It does not cover the samples between, nor the code of the metric: change its `version` with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from burnish.errors import InvalidInput
from burnish.goal._census import Census, take_census
from burnish.goal._limits import Budget, Target
from burnish.goal._task import SPLITS, Task


@dataclass(frozen=True)
class Goal:
    """What is wanted of a model."""

    task: Task
    target: Target = field(default_factory=Target)
    budget: Budget = field(default_factory=Budget)
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0
        for name, kind in (("task", Task), ("target", Target), ("budget", Budget)):
            if not isinstance(getattr(self, name), kind):
                raise InvalidInput(
                    f"Goal({name}=…) is a {type(getattr(self, name)).__name__}: give a "
                    f"burnish.{kind.__name__}"
                )
        if wrong:
            raise InvalidInput(f"Goal(seed={self.seed!r}): a whole number, 0 or more")

    def census(
        self, watch: Callable[[Iterable[Any], str], Iterable[Any]] | None = None
    ) -> tuple[Census, ...]:
        """Check every split the task has; see `Census`.

        Args:
            watch: wraps an iterable with a title, as a progress bar does.

        Raises:
            InvalidInput: unusable data, or test data that overlaps validation data.
        """
        found = tuple(
            take_census(self.task, split, watch)
            for split in SPLITS
            if getattr(self.task, split) is not None
        )
        by_split = {census.split: census for census in found}
        if "test" in by_split and "validation" in by_split:
            validation = set(by_split["validation"].hashes)
            both = [h for h in by_split["test"].hashes if h in validation]
            if both:
                raise InvalidInput(
                    f"{len(both)} of {by_split['test'].num_samples} test samples are also in the "
                    "validation data: the final figure must come from data no choice has seen; "
                    "take them out of one of the two"
                )
        return found

    def settings(self) -> dict[str, Any]:
        """The goal as plain JSON, the data left out."""
        budget, target, metric = self.budget, self.target, self.task.metric
        return {
            "metric": {
                "name": metric.name,
                "version": metric.version,
                "kind": metric.kind,
                "higher_is_better": metric.higher_is_better,
            },
            "constants": self.task.inputs.constants(),
            "inputs": [
                {
                    "key": leaf.key,
                    "dtype": str(leaf.tensor.dtype).removeprefix("torch."),
                    "shape": list(leaf.tensor.shape),
                    "axes": {str(axis): name for axis, name in leaf.axes.items()},
                }
                for leaf in self.task.inputs.leaves()
            ],
            "target": {
                "device": target.device,
                "runtimes": list(target.runtimes),
                "threads": target.threads,
                "batch": target.batch,
            },
            "budget": {
                "max_drop": budget.max_drop,
                "relative": budget.relative,
                "minimise": budget.minimise,
                "confidence": budget.confidence,
                "accept_undecided": budget.accept_undecided,
                "limits": dict(budget.limits),
            },
            "seed": self.seed,
        }

    def fingerprint(self, census: tuple[Census, ...]) -> str:
        """A hash of the settings and of the data. More minutes do not make it another goal."""
        text = json.dumps([self.settings(), [c.summary() for c in census]], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

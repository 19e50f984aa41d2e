"""Where the artifacts of mixed precision are made, run and judged.

A `Draft` is what to make: a runtime, the type that what is not quantized computes in, and a
precision for each layer. `Shop.make` exports it and takes its error: the squared difference of the
artifact's outputs from the float model's on the samples that calibration kept, as a share of their
power, the same figure that the losses of layers are in. Quality on the validation data, and the
verdict on it, are taken of what may be picked.

A runtime that refuses, crashes or hangs costs one draft; the reason is kept.

Left out: resuming; what is made lies in the folder that was given.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from burnish.auto._bench import Arrays, Bench, Terms
from burnish.auto._console import Narrator
from burnish.auto._inputs import calibration_calls, timing_inputs
from burnish.auto._mix_costs import Whole
from burnish.auto._quality import (
    Answers,
    answer,
    compare,
    eager,
    quality_json,
    through,
    verdict_json,
)
from burnish.bench import Race
from burnish.bundle import Artifact, Worker
from burnish.core import Applied
from burnish.errors import Damaged, NoEffect, RuntimeFailed, Unsupported
from burnish.goal import Goal
from burnish.graph import Traced, operator_names, trace
from burnish.quantize import Statistics, calibrate, fold
from burnish.runtimes import attribute, export, load

FAILURES = (RuntimeFailed, Unsupported, Damaged, NoEffect)
NUM_CALLS = 4  # of 8 samples each: those the losses rest on
NUM_COUNTS = 5


@dataclass(frozen=True)
class Draft:
    """What to make. `base` is "float32" or "bfloat16"; `precisions` of all layers."""

    label: str
    runtime: str
    base: str
    precisions: Mapping[str, str]
    uniform: bool = False

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for drafts of equal artifacts."""
        return self.runtime, self.base, tuple(sorted(self.precisions.items()))

    @property
    def word(self) -> str:
        """The precision that the runtime is asked for."""
        held = set(self.precisions.values())
        if "int8" in held:
            return "int8"
        return "int4-weights" if "int4" in held else self.base


@dataclass(frozen=True, eq=False)
class Made:
    """A draft as an artifact, with its error; `applied` is how its graph came to be, if changed."""

    draft: Draft
    artifact: Artifact
    error: float
    applied: Applied | None


@dataclass(eq=False)
class Shop:
    """One model, its goal, a folder and a clock."""

    model: nn.Module
    goal: Goal
    folder: Path
    bench: Bench
    narrator: Narrator
    threads: int
    failures: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with self.narrator.busy("tracing the model"):
            self.traced = trace(self.model, *self.goal.task.inputs.to_trace())
            self.folded = fold(self.traced)
        self.statistics: Statistics = calibrate(
            self.folded, calibration_calls(self.goal, self.narrator)
        )
        sample = self.statistics.sample.batches(8)
        self._calls = list(itertools.islice(sample, NUM_CALLS))
        with torch.inference_mode():
            self._wanted = [self.traced.graph_module(*call) for call in self._calls]
        self._baseline: Answers | None = None

    def make(self, draft: Draft, graph: Callable[[], tuple[Traced, Applied | None]]) -> Made | None:
        """Export a draft and take its error; None where it fails."""
        place = self.folder / f"{len(list(self.folder.iterdir())):02d}-{_slug(draft.label)}"
        try:
            with self.narrator.busy(f"exporting {draft.label}"):
                made, applied = graph()
                artifact = export(made, draft.runtime, place, precision=draft.word)
                artifact = artifact.with_options(
                    threads=self.threads, execution=draft.base, device=self.goal.target.device
                )
                artifact.save()
            with load(artifact) as worker:
                error = self._error(worker)
        except FAILURES as refusal:
            self.fail(draft.label, f"{type(refusal).__name__}: {refusal}")
            return None
        return Made(draft, artifact, error, applied)

    def _error(self, worker: Worker) -> float:
        error = power = 0.0
        for call, wanted in zip(self._calls, self._wanted, strict=True):
            arrays = {s.name: t.numpy() for s, t in zip(self.traced.inputs, call, strict=True)}
            for mine, theirs in zip(worker.run(arrays), wanted, strict=True):
                if theirs.is_floating_point():
                    true = theirs.double().numpy()
                    finite = np.isfinite(true)
                    error += float(np.square(mine.astype(np.float64) - true)[finite].sum())
                    power += float(np.square(true)[finite].sum())
        return error / power if power else error

    def judge(self, made: Made) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Quality on the validation data and the verdict, as JSON; None where it fails."""
        watch = self.narrator.watch
        if self._baseline is None:
            self._baseline = answer(eager(self.model), self.goal, "validation", watch)
        try:
            with load(made.artifact) as worker:
                found = answer(through(worker, self.traced), self.goal, "validation", watch)
        except FAILURES as refusal:
            self.fail(made.draft.label, f"{type(refusal).__name__}: {refusal}")
            return None
        verdict = compare(self.goal, self._baseline, found)
        return quality_json(self.goal, found), verdict_json(verdict)

    def race(self, made: Sequence[Made], seconds: float) -> Race:
        """Race artifacts at the target's batch; one that fails is a timing that says so."""
        goal = self.goal
        terms = Terms(seconds, goal.budget.confidence, goal.seed, goal.target.batch, self.threads)
        by_label = {item.draft.label: item.artifact for item in made}
        with self.narrator.share(f"timing {len(by_label)} artifacts in turns") as progress:
            found = self.bench.race(by_label, self._arrays(), terms, progress)
        for timing in found.timings:
            if timing.failed is not None:
                self.fail(timing.label, timing.failed)
        return found

    def whole(self, made: Made, seconds: float) -> Whole | None:
        """An artifact's time by operator; None where its runtime has no counters to tell it.

        Counters give means, and an interruption, which falls on a single operator, only adds: each
        one's least of several counts is taken.
        """
        names = list(operator_names(self.folded.graph_module).values())
        try:
            with self.narrator.busy(f"timing the operators of {made.draft.label}"):
                counts = [
                    attribute(self.bench.op_times(made.artifact, self._arrays()), names)
                    for _ in range(NUM_COUNTS)
                ]
        except FAILURES as refusal:
            self.fail(made.draft.label, f"no times per operator: {refusal}")
            return None
        least = {
            name: min(count.seconds.get(name, 0.0) for count in counts)
            for name in dict.fromkeys(name for count in counts for name in count.seconds)
        }
        return Whole(seconds, least, counts[0].fused)

    def fail(self, label: str, reason: str) -> None:
        """Keep why a draft is out."""
        self.failures.setdefault(label, reason)
        self.narrator.say(f"  {label}: failed, {reason.splitlines()[0]}")

    def _arrays(self) -> Arrays:
        return timing_inputs(self.goal, self.traced, self.goal.target.batch)


def _slug(label: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in label)

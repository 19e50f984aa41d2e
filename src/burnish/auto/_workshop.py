"""Where variants are built, answered and timed, each piece of work at most once.

All that is expensive goes through the run folder's journal, so that a search is an ordinary program
and resuming is running it again. A runtime that refuses, crashes or hangs fails one variant: the
failure is recorded with its reason and the search goes on.

Left out: building several variants at a time (two at once would share the cores being timed).
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from burnish.auto._bench import Arrays, Bench, Terms
from burnish.auto._console import Narrator
from burnish.auto._inputs import calibration_calls, timing_inputs
from burnish.auto._quality import (
    Answers,
    agreement,
    answer,
    compare,
    eager,
    quality_json,
    through,
    verdict_json,
)
from burnish.auto._recipes import Maker
from burnish.auto._trial import Built, Trial, Variant
from burnish.bench import Race
from burnish.bundle import Artifact, OpTime, Worker
from burnish.core import Applied
from burnish.errors import Damaged, InvalidInput, NoEffect, RuntimeFailed, Unsupported
from burnish.goal import Goal
from burnish.graph import flatten_call, operator_names, trace
from burnish.metrics import scores
from burnish.profile import Preflight
from burnish.quantize import Coverage, Sensitivity, fold
from burnish.recipe import Store, load_history, save_history
from burnish.runtimes import attribute, export, load

FEW_CALLS, FEW_SAMPLES = 4, 8
PREFLIGHT_SECONDS, PROFILE_SECONDS = 2.0, 1.0  # of racing
FAILURES = (RuntimeFailed, Unsupported, Damaged, NoEffect)


class Workshop:
    """One run's model, goal, journal and clock."""

    def __init__(
        self, model: nn.Module, goal: Goal, store: Store, bench: Bench, narrator: Narrator
    ) -> None:
        self.model = model
        self.goal = goal
        self.store = store
        self.bench = bench
        self.narrator = narrator
        self.failures: dict[str, str] = {}
        with narrator.busy("tracing the model"):
            self.traced = trace(model, *goal.task.inputs.to_trace())
            self.folded = fold(self.traced)
        self.maker = Maker(self.folded, lambda: calibration_calls(goal, narrator), goal.seed)
        self._baselines: dict[str, Answers] = {}
        self._built: dict[str, Built | None] = {}

    # --- the float model

    def baseline(self, split: str) -> Answers:
        """The original model's answers on a split."""
        if split not in self._baselines:
            key = f"baseline:{split}"
            kept = self.store.find(key)
            is_set = self.goal.task.metric.kind == "set"
            if kept is not None and not is_set:
                self._baselines[split] = Answers.from_json(self.goal, split, kept)
            else:
                answers = answer(eager(self.model), self.goal, split, self.narrator.watch)
                self.store.once(key, answers.to_json)
                self._baselines[split] = answers
        return self._baselines[split]

    # --- variants

    def build(self, variant: Variant) -> Built | None:
        """Export a variant and let it answer the validation data; None where it fails."""
        key = variant.key
        if key not in self._built:
            self._built[key] = self._build(variant)
            built = self._built[key]
            if built is not None:
                self._tell(built)
        return self._built[key]

    def _build(self, variant: Variant) -> Built | None:
        exported = self.store.once(f"export:{variant.key}", lambda: self._export(variant))
        if "failed" in exported:
            self._fail(variant.label, exported["failed"])
            return None
        artifact = Artifact.open(self.store.folder / exported["folder"])
        if _digests(artifact) != exported["sha256"]:
            raise Damaged(
                f"the files in {artifact.folder} are not those that were measured: move the run "
                "folder away and start again"
            )
        if self.goal.target.device != "cpu":
            artifact = artifact.with_options(device=self.goal.target.device)
        answered = self.store.once(
            f"quality:{variant.key}", lambda: self._answer(artifact, "validation")
        )
        if "failed" in answered:
            self._fail(variant.label, answered["failed"])
            return None
        return Built(
            variant,
            artifact,
            answered["quality"],
            answered["verdict"],
            answered["agreement"],
            answered["parity"],
            tuple(exported["int8"]),
            exported["num_operators"],
            tuple(Coverage(**row) for row in exported["coverage"]),
        )

    def _export(self, variant: Variant) -> dict[str, Any]:
        place = self.store.candidate(variant.key)
        try:
            self.maker.prepare(variant)
        except FAILURES as error:
            return {"failed": f"{type(error).__name__}: {error}"}
        with self.narrator.busy(f"exporting {variant.label}"), self.store.writing(place):
            for unfinished in place.glob(".export-*"):  # of a run that was killed
                shutil.rmtree(unfinished)
            scratch = Path(tempfile.mkdtemp(dir=place, prefix=".export-"))
            try:
                made = self.maker.make(variant)
                artifact = export(made.graph, variant.runtime, scratch, precision=variant.precision)
            except FAILURES as error:
                shutil.rmtree(scratch)
                return {"failed": f"{type(error).__name__}: {error}"}
            final = place / "artifact"
            shutil.rmtree(final, ignore_errors=True)
            artifact.folder.rename(final)
            save_history(place, made.history)
        return {
            "folder": str(final.relative_to(self.store.folder)),
            "sha256": _digests(Artifact.open(final)),
            "int8": [row.operator for row in made.coverage if row.state == "int8"],
            "num_operators": len(made.coverage),
            "coverage": [vars(row) for row in made.coverage],
        }

    def history(self, built: Built) -> tuple[Applied, ...]:
        """The history of a built variant, from the run folder."""
        return load_history(self.store.folder / "candidates" / built.variant.key)

    def _answer(self, artifact: Artifact, split: str) -> dict[str, Any]:
        baseline = self.baseline(split)  # first: what is wrong with that is the user's to mend
        try:
            with load(artifact) as worker:
                parity = self._parity(worker)
                answers = answer(
                    through(worker, self.traced), self.goal, split, self.narrator.watch
                )
        except (*FAILURES, InvalidInput) as error:
            return {"failed": f"{type(error).__name__}: {error}"}
        return {
            "quality": quality_json(self.goal, answers),
            "verdict": verdict_json(compare(self.goal, baseline, answers)),
            "agreement": agreement(baseline, answers),
            "parity": parity,
        }

    def _parity(self, worker: Worker) -> float | None:
        """Largest difference from the float model on the example, as a share of the largest.

        None where one is finite and the other is not.
        """
        inputs = self.arrays(2)
        with torch.inference_mode():
            tensors = [torch.from_numpy(inputs[slot.name]) for slot in self.traced.inputs]
            wanted = [t.double().numpy() for t in self.traced.graph_module(*tensors)]
        given = worker.run(inputs)
        worst = 0.0
        for mine, theirs in zip(given, wanted, strict=True):
            finite = np.isfinite(theirs)
            if not np.array_equal(mine[~finite], theirs[~finite], equal_nan=True):
                return None
            if finite.any():
                reach = float(np.abs(theirs[finite]).max()) or 1.0
                off = float(np.abs(mine[finite] - theirs[finite]).max()) / reach
                if not np.isfinite(off):
                    return None
                worst = max(worst, off)
        return worst

    def test(self, built: Built) -> dict[str, Any]:
        """The one look at the test data: the pick's and the float model's figures."""

        def look() -> dict[str, Any]:
            answered = self._answer(built.artifact, "test")
            if "failed" in answered:
                return answered
            baseline = quality_json(self.goal, self.baseline("test"))
            return answered | {"baseline": baseline}

        return dict(self.store.once(f"test:{built.variant.key}", look))

    # --- time

    def arrays(self, batch: int) -> Arrays:
        """Inputs to time with: the first validation batch, cut or repeated to `batch` samples."""
        return timing_inputs(self.goal, self.traced, batch)

    def race(self, what: str, trials: Sequence[Trial], seconds: float) -> Race | None:
        """Race trials at the target's batch; None where none of them ran."""
        by_label = {trial.label: trial.artifact for trial in trials}
        key = f"race:{what}:{'|'.join(sorted(by_label))}"
        terms = Terms(seconds, self.goal.budget.confidence, self.goal.seed, self.goal.target.batch)

        def run() -> dict[str, Any]:
            with self.narrator.share(f"timing {len(by_label)} artifacts in turns") as progress:
                inputs = self.arrays(terms.batch)
                return self.bench.race(by_label, inputs, terms, progress).to_json()

        race = Race.from_json(self.store.once(key, run))
        for timing in race.timings:
            if timing.failed is not None:
                self._fail(timing.label, timing.failed)
        return race if any(t.failed is None for t in race.timings) else None

    def operator_seconds(self, trial: Trial) -> dict[str, float]:
        """The time of each operator by the runtime's counters; empty where they fail."""
        names = list(operator_names(self.folded.graph_module).values())
        return dict(attribute(self._op_times(trial), names).seconds)

    def _op_times(self, trial: Trial) -> tuple[OpTime, ...]:

        def run() -> Any:
            try:
                with self.narrator.busy(f"timing the operators of {trial.label}"):
                    times = self.bench.op_times(trial.artifact, self.arrays(self.goal.target.batch))
            except FAILURES as error:
                return {"failed": str(error)}
            return [
                [op.name, op.kind, op.seconds, list(op.members), list(op.feeds)] for op in times
            ]

        found = self.store.once(f"operators:{trial.label}", run)
        if isinstance(found, Mapping):
            self._fail(trial.label, found["failed"])
            return ()
        return tuple(OpTime(*row[:3], *map(tuple, row[3:])) for row in found)

    def preflight(self, runtimes: Sequence[str], threads: int) -> Preflight | None:
        """What is worth trying with the model, foreseen at the target's batch."""
        seed, batch = self.goal.seed, self.goal.target.batch
        terms = Terms(PREFLIGHT_SECONDS, self.goal.budget.confidence, seed, batch, threads)

        def ask() -> dict[str, Any] | None:
            with self.narrator.doing("preflight") as told:
                inputs = self.goal.task.inputs
                found = self.bench.preflight(self.traced, inputs, terms, runtimes, told)
            return None if found is None else found.to_json()

        kept = self.store.once(f"preflight:{threads}", ask)
        return None if kept is None else Preflight.from_json(kept)

    def profile(self, trial: Trial) -> dict[str, Any] | None:
        """Where the time of a float trial goes, as the record of a profile."""
        confidence, seed = self.goal.budget.confidence, self.goal.seed
        batch = self.goal.target.batch
        terms = Terms(PROFILE_SECONDS, confidence, seed, batch, trial.threads)

        def look() -> dict[str, Any] | None:
            with self.narrator.doing("profile") as told:
                inputs, runtime = self.goal.task.inputs, trial.built.variant.runtime
                found = self.bench.profile(self.traced, inputs, terms, runtime, told)
            return None if found is None else found.to_json()

        kept: dict[str, Any] | None = self.store.once(f"profile:{trial.label}", look)
        return kept

    # --- simulation

    def sensitivity(self, variant: Variant) -> Sensitivity:
        """What each int8 operator of a static variant costs alone.

        Simulated on a few calibration samples, with the change of the metric where these have
        targets and the metric scores samples one by one.
        """

        def work() -> dict[str, Any]:
            self.maker.prepare(variant)
            calls, targets = self._few()
            score = None if targets is None else self._score
            with self.narrator.busy(f"what each operator of {variant.label} costs"):
                return self.maker.sensitivity(variant, calls, targets, score).to_json()

        return Sensitivity.from_json(self.store.once(f"sensitivity:{variant.key}", work))

    def _score(self, output: Any, target: Any) -> Any:
        return scores(self.goal.task.metric, output, target)

    def _few(self) -> tuple[list[tuple[torch.Tensor, ...]], list[Any] | None]:
        """A few samples of the first calibration batches, with their targets or None for those."""
        task, calls, targets = self.goal.task, [], []
        judged = task.metric.kind != "set" and task.predict is None
        for batch in itertools.islice(task.data("calibration"), FEW_CALLS):
            call, example = task.call(batch), task.inputs
            inputs = type(example)(call.args, call.kwargs, example.batch_axis, example.dynamic)
            size = min(FEW_SAMPLES, inputs.batch_size())
            resized = inputs.resized(size)
            calls.append(flatten_call(resized.args, dict(resized.kwargs)))
            judged = judged and isinstance(call.target, torch.Tensor | np.ndarray | list)
            targets.append(call.target[:size] if judged else None)
        return calls, targets if judged else None

    # --- telling

    def _fail(self, label: str, reason: str) -> None:
        if label not in self.failures:
            self.failures[label] = reason
            self.narrator.say(f"  {label}: failed, {reason.splitlines()[0]}")

    def _tell(self, built: Built) -> None:
        quality, state = built.quality, built.verdict["state"]
        int8 = f", {len(built.int8)} of {built.num_operators} in int8" if built.int8 else ""
        same = "" if built.agreement is None else f", agreement {built.agreement:.3f}"
        self.narrator.say(
            f"  {built.variant.label}: {quality['metric']} {quality['value']:.4g}{same}"
            f" ({state}){int8}"
        )

    def check_metric(self) -> None:
        """Answer the validation data once with the float model, before anything is built."""
        answers = self.baseline("validation")
        if not np.isfinite(answers.scores.figure):
            raise InvalidInput(f"the metric gives {answers.scores.figure} for the float model")


def _digests(artifact: Artifact) -> dict[str, str]:
    return {
        name: hashlib.sha256((artifact.folder / name).read_bytes()).hexdigest()
        for name in artifact.files
    }

"""Asking the machine what is worth trying with a model, in half a minute.

    the model in every runtime, raced whole: runtime, bfloat16, int8, memory layout
    the fastest float32 once more: on one thread, on a larger batch
    a few representative operators in that runtime: half the channels, compiling

What can be run whole is run whole, and its answer is measured: int8 too, for which any ranges will
do as long as only time is asked for. What would need training or minutes of compiling is estimated
from operators. Where something is refused or fails, that is the answer.

Left out: dynamic int8 and weight-only forms (they save memory first of all), other devices.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from burnish.bench import Race, Ratio
from burnish.errors import BurnishError, InvalidInput, MissingExtra, RuntimeFailed, Unsupported
from burnish.goal import Inputs
from burnish.graph import Traced
from burnish.hardware import Machine, detect
from burnish.profile._call import arrays_at, check_settings, example_of, has_batch, traced_at
from burnish.profile._in_int8 import in_int8
from burnish.profile._moves import (
    Known,
    Taken,
    compiled_answer,
    half_answer,
    raced_answer,
    times,
)
from burnish.profile._preflight import IMPOSSIBLE, Answer, Preflight
from burnish.profile._probe_workers import Workers
from burnish.profile._representatives import Representative, representatives
from burnish.profile._samples import COUNTED, Compiling, Sample, sample
from burnish.profile._shape import macs, shapes
from burnish.runtimes import Artifact, attribute, export

Progress = Callable[[str], None]
RUNTIMES = ("eager", "onnxruntime", "openvino")
NOW = "eager"
_CHANNELS_LAST, _BFLOAT16 = "eager channels-last", "openvino bfloat16"
_INT8 = {name: f"{name} int8" for name in COUNTED}
_LARGER = 8
_TURNS, _TURN_SECONDS = 5, 0.05
_COUNTS = (8, 100)
_COUNTING = 0.3  # seconds


def preflight(
    model: nn.Module,
    inputs: Any,
    *,
    batch: int = 1,
    threads: int | None = None,
    runtimes: Sequence[str] = RUNTIMES,
    compiling: bool = True,
    seconds: float = 2.5,
    seed: int = 0,
    progress: Progress | None = None,
) -> Preflight:
    """Will int8 help here? bfloat16? fewer channels? another runtime, batch, thread count, layout?

    Args:
        model: in float; left as it was.
        inputs: one example call, in any of the forms `profile` takes.
        batch: samples in a call.
        threads: of each runtime; None for every core this process may use.
        runtimes: where to try.
        compiling: whether to ask about torch.compile, which takes up to half of the time.
        seconds: how long the whole models are raced.
        seed: of weights and inputs that are made up.
        progress: is told what is being done, in a few words.

    Returns:
        The answers, against eager float32, or against the fastest float32 where eager is not one
        of the runtimes.

    Raises:
        InvalidInput: inputs the model does not take.
        Unsupported: torch.export refuses the model.
        RuntimeFailed: no runtime runs it.
    """
    told = progress if progress is not None else _silent
    check_settings(batch, threads, runtimes, seconds)
    if not runtimes or not set(runtimes) <= set(RUNTIMES):
        raise InvalidInput(
            f"runtimes is {tuple(runtimes)}: name one or more of {', '.join(RUNTIMES)} "
            "(`compiling` asks about inductor)"
        )
    start = time.monotonic()
    machine = detect()
    threads = threads or machine.cores
    example = example_of(inputs)
    told("tracing the model")
    traced = traced_at(model, example, batch)
    with tempfile.TemporaryDirectory(prefix="burnish-") as scratch:
        asked = _Asked(traced, example, batch, threads, seed, Path(scratch), told)
        answers = _answers(asked, runtimes, machine, compiling, seconds)
    took = time.monotonic() - start
    return Preflight(asked.now, batch, threads, took, tuple(answers))


def _silent(doing: str) -> None:
    pass


def _answers(
    asked: _Asked, runtimes: Sequence[str], machine: Machine, compiling: bool, seconds: float
) -> list[Answer]:
    """All of them, in the order in which they are found; compiling goes on beside exporting."""
    with contextlib.ExitStack() as stack:
        compiled = None
        if compiling:
            asked.told("compiling a few operators")
            compiled = stack.enter_context(asked.compiling())
        artifacts = asked.noted(_artifacts(asked, runtimes, machine))
        with Workers(artifacts, asked.inputs) as workers:
            if compiled is not None:
                compiled.wait()
            asked.race(workers, seconds)
            answers = [*asked.whole(machine), *asked.fastest_otherwise(workers)]
        answers += asked.operators()
        if compiled is not None:
            asked.told("racing what was compiled")
            answers.append(compiled_answer(compiled.found()))
    return answers


def _artifacts(
    asked: _Asked, runtimes: Sequence[str], machine: Machine
) -> Iterator[tuple[str, Artifact]]:
    """The artifacts of the model in float, the other ways two of them can be run, and in int8."""
    for name in dict.fromkeys(runtimes):
        asked.told(f"exporting for {name}")
        try:
            artifact = export(asked.traced, name, asked.folder / name)
        except (Unsupported, MissingExtra) as error:
            asked.refused[name] = str(error)
            continue
        artifact = artifact.with_options(threads=asked.threads)
        yield name, artifact
        if name == "openvino" and machine.supports_bfloat16:
            yield _BFLOAT16, artifact.with_options(execution="bfloat16")
        if name == "eager" and any(len(slot.shape) == 4 for slot in asked.traced.inputs):
            yield _CHANNELS_LAST, artifact.with_options(layout="channels_last")
    asked.told("quantizing with the ranges of one call")
    call = tuple(torch.from_numpy(array) for array in asked.inputs.values())
    refused: dict[str, str] = {}
    for name, graph in in_int8(
        asked.traced, call, [name for name in COUNTED if name in asked.artifacts], refused
    ):
        asked.told(f"exporting for {name} in int8")
        try:
            artifact = export(graph, name, asked.folder / _INT8[name], precision="int8")
        except Unsupported as error:
            refused[name] = str(error)
        else:
            yield _INT8[name], artifact.with_options(threads=asked.threads)
    asked.refused |= {_INT8[name]: why for name, why in refused.items()}


class _Asked:
    """One model at one batch: what was raced, and the answers that follow."""

    def __init__(
        self,
        traced: Traced,
        example: Inputs,
        batch: int,
        threads: int,
        seed: int,
        folder: Path,
        told: Progress,
    ) -> None:
        self.traced = traced
        self.example = example
        self.batch = batch
        self.threads = threads
        self.seed = seed
        self.folder = folder
        self.told = told
        self.artifacts: dict[str, Artifact] = {}
        self.refused: dict[str, str] = {}
        self.taken: dict[str, Taken] = {}
        self.chosen: tuple[Representative, ...] = ()
        self.shapes = shapes(traced, batch)
        self.inputs = arrays_at(traced, example, batch)

    def race(self, workers: Workers, seconds: float) -> None:
        """Race whole models and read the counters of those that have them."""
        self.told("racing whole models")
        self.raced: Race = workers.race(workers.labels, self.inputs, seconds, lambda share: None)
        self.refused |= workers.reasons
        for timing in self.raced.timings:
            if timing.failed is not None:
                self.refused[timing.label] = timing.failed
            elif timing.label in COUNTED:
                self._count(timing.label, workers.worker(timing.label), timing.p50)
        floats = [name for name in RUNTIMES if name in self.artifacts.keys() - self.refused]
        if not floats:
            raise RuntimeFailed(f"no runtime runs this model: {self.refused}", "refused")
        self.fastest = min(floats, key=lambda name: self.raced.timing(name).p50)
        self.reference = NOW if NOW in floats else self.fastest
        self.now = f"{self.reference} float32"

    def noted(self, artifacts: Iterator[tuple[str, Artifact]]) -> Iterator[tuple[str, Artifact]]:
        """The same, each kept as it comes."""
        for label, artifact in artifacts:
            self.artifacts[label] = artifact
            yield label, artifact

    def _count(self, label: str, worker: Any, whole: float) -> None:
        fewest, most = _COUNTS
        repeats = max(fewest, min(most, round(_COUNTING / whole)))
        try:
            counts = worker.count(self.inputs, repeats=repeats)
        except RuntimeFailed:
            return
        given = attribute(counts.times, list(self.shapes))
        self.taken[label] = Taken(counts.seconds, given.seconds)

    def _factor(self, label: str) -> Ratio:
        return self.raced.ratio(label, self.reference)

    def whole(self, machine: Machine) -> list[Answer]:
        """Other runtimes, bfloat16, memory layout and int8: raced as they are."""
        raced = f"Raced whole in turns, {self.threads} threads, batch {self.batch}"
        made_up = f"{raced}, with the ranges of one call: what it does to quality is not known yet"
        answers = []
        for name in (*COUNTED, _BFLOAT16, _CHANNELS_LAST, *_INT8.values()):
            move, question = _QUESTIONS[name]
            if name in self.refused:
                told = f"Not possible: {self.refused[name]}"
                answers.append(Answer(move, question, told, None, IMPOSSIBLE, "Tried"))
            elif name in self.artifacts and name != self.reference:
                basis = made_up if name in _INT8.values() else raced
                answers.append(raced_answer(move, question, self._factor(name), basis))
        if "openvino" in self.artifacts and not machine.supports_bfloat16:
            move, question = _QUESTIONS[_BFLOAT16]
            told = "No: this machine has no instructions for it and would emulate it"
            basis = "Read off the processor's instructions"
            answers.append(Answer(move, question, told, None, IMPOSSIBLE, basis))
        return answers

    def fastest_otherwise(self, workers: Workers) -> list[Answer]:
        """The fastest float32 artifact on one thread, and on a larger batch."""
        self.told(f"{self.fastest} on one thread, and on a larger batch")
        now = (self.fastest, self.inputs)
        many = self._larger()
        single: Ratio | None = None
        per_sample: Ratio | None = None
        if self.threads > 1:
            alone = f"{self.fastest} on one thread"
            workers.load(alone, self.artifacts[self.fastest].with_options(threads=1))
            if alone in workers.labels:
                single = _in_turns(workers, (alone, self.inputs), now, 1.0)
        if many is not None:
            per_sample = _in_turns(workers, (self.fastest, many), now, 1 / _LARGER)
        base = self._factor(self.fastest)
        answers = []
        if single is not None:
            basis = f"Raced whole on {self.fastest}, which is fastest in float32"
            factor = times(single, base)
            move = f"1 thread in {self.fastest}"
            answers.append(raced_answer(move, "Would fewer threads do?", factor, basis))
        if per_sample is not None:
            factor = times(per_sample, base)
            size = _LARGER * self.batch
            basis = f"Time for one sample of {size} in {self.fastest}; a call takes longer"
            move = f"batch {size} in {self.fastest}"
            answers.append(raced_answer(move, "Would a larger batch help?", factor, basis, False))
        return answers

    def _larger(self) -> Mapping[str, np.ndarray[Any, Any]] | None:
        """Inputs of eight times the batch; None where the model has no batch axis."""
        if not has_batch(self.example):
            return None
        return arrays_at(self.traced, self.example, _LARGER * self.batch)

    def operators(self) -> list[Answer]:
        """Fewer channels, from representative operators."""
        runtimes = [name for name in COUNTED if name in self.taken]
        if not runtimes:
            return []
        shares = {
            name: sum(taken.operators.get(name, 0.0) / taken.total for taken in self.taken.values())
            for name in self.shapes
        }
        self.chosen = representatives(self.shapes, shares)
        best = self.fastest if self.fastest in runtimes else runtimes[0]
        base = self._factor(best)
        known = Known(best, self.taken[best], base, self.chosen, self.shapes, self._sample(best))
        return [half_answer(known)]

    def _sample(self, runtime: str) -> Sample | None:
        """The representatives timed; None where there are none or they cannot be."""
        if not self.chosen:
            return None
        self.told(f"{len(self.chosen)} representative operators in {runtime}")
        terms = {"batch": self.batch, "threads": self.threads, "seed": self.seed}
        try:
            return sample(self.chosen, runtime, folder=self.folder, **terms)
        except BurnishError:
            return None

    def compiling(self) -> Compiling:
        """torch.compile, on the operators with the most multiply-accumulates: begun."""
        work = {name: float(macs(shape) or 0) for name, shape in self.shapes.items()}
        return Compiling(
            representatives(self.shapes, work),
            batch=self.batch,
            threads=self.threads,
            seed=self.seed,
            folder=self.folder,
        )


_QUESTIONS = {
    "onnxruntime": ("float32 in onnxruntime", "Would another runtime help?"),
    "openvino": ("float32 in openvino", "Would another runtime help?"),
    _BFLOAT16: ("bfloat16 in openvino", "Will bfloat16 help here?"),
    _CHANNELS_LAST: ("channels-last in eager", "Would another memory layout help?"),
    **{label: (f"int8 in {name}", "Will int8 help here?") for name, label in _INT8.items()},
}


def _in_turns(
    workers: Workers,
    one: tuple[str, Mapping[str, Any]],
    other: tuple[str, Mapping[str, Any]],
    scale: float,
) -> Ratio | None:
    """Time of one over time of the other, times `scale`, in alternating turns; None: one failed."""
    factors = []
    try:
        for _ in range(_TURNS):
            taken = []
            for label, inputs in (one, other):
                worker = workers.worker(label)
                (first,) = worker.time(inputs, repeats=1)
                runs = max(1, min(200, round(_TURN_SECONDS / first)))
                taken.append(float(np.median(worker.time(inputs, repeats=runs))))
            factors.append(scale * taken[0] / taken[1])
    except BurnishError:
        return None
    low, value, high = np.quantile(factors, (0.0, 0.5, 1.0)).tolist()
    return Ratio(value, low, high, high / low > 1.25)

"""One model's comparison: every tool quantizes, every file answers, all of them race."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from handover import Given
from models import Model
from rich.console import Console
from rich.progress import Progress

from burnish.bench import Race, race
from burnish.bundle import Artifact
from burnish.errors import RuntimeFailed
from burnish.hardware import detect
from ptq.entrants import OURS, Answers, Entrant, answers, entrants
from ptq.tools import OURS as OUR_TOOL
from ptq.tools import ToolFailed, Tools

RACED = ("nncf_openvino", "nncf_onnx", "onnxruntime_static")  # torchao's has no runtime of ours
BATCHES = (1, 16)


@dataclass(frozen=True)
class Effort:
    """How long everything is measured; `num_test` validation samples, None for all."""

    repeats: int
    seconds: Mapping[int, float]
    rounds: int
    num_test: int | None


@dataclass(frozen=True)
class Telling:
    """How a run shows what it is doing."""

    console: Console
    watch: Callable[[Iterable[Any], str], Iterable[Any]]

    @contextmanager
    def share(self, title: str) -> Iterator[Callable[[float], None]]:
        """A progress bar for what tells its share from 0 to 1."""
        with Progress(console=self.console) as bar:
            shown = bar.add_task(title, total=1.0)
            yield lambda done: bar.update(shown, completed=done)


def quantize_all(
    tools: Tools, names: Sequence[str], telling: Telling
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Let every tool quantize once: what each handed back, and the peers' failures."""
    done: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for name in telling.watch((OUR_TOOL, *names), "each tool quantizes"):
        try:
            done[name] = tools.run(name, tools.work / name)
        except ToolFailed as error:
            if name == OUR_TOOL:
                raise
            failed[name] = str(error)
            telling.console.print(f"[red]{name} failed[/red]; its rows will be missing")
    return done, failed


def field_of(tools: Tools, done: Mapping[str, Any], reference: Artifact) -> list[Entrant]:
    """Every file on every runtime that reads it."""
    ours = tools.work / OUR_TOOL
    opened = [Artifact.open(ours / runtime) for runtime in ("onnxruntime", "openvino")]
    files = {OURS: tuple(artifact.folder / artifact.files[0] for artifact in opened)}
    for name in RACED:
        if name in done:
            files[done[name]["tool"]] = (tools.work / name / done[name]["file"],)
    return entrants(reference, files, tools.threads, detect().supports_bfloat16)


def answer_all(
    field: Sequence[Entrant], model: Model, telling: Telling
) -> tuple[dict[str, Answers], dict[str, str]]:
    """The answers of every entrant on the validation data, and the failures."""
    found: dict[str, Answers] = {}
    failed: dict[str, str] = {}
    for entrant in telling.watch(field, f"{model.name}: answers and coverage"):
        try:
            found[entrant.label] = answers(entrant, model)
        except RuntimeFailed as error:
            failed[entrant.label] = str(error)
    return found, failed


def race_all(
    field: Sequence[Entrant], task: Given, effort: Effort, telling: Telling
) -> dict[int, Race]:
    """One race for each batch size, all entrants taking turns."""
    artifacts = {entrant.label: entrant.artifact for entrant in field}
    races = {}
    for batch in BATCHES:
        title = f"{task.model}: racing {len(field)} artifacts, batch {batch}"
        run = partial(race, artifacts, task.samples(0, batch), seconds=effort.seconds[batch])
        with telling.share(title) as progress:
            races[batch] = run(batch=batch, progress=progress)
    return races

"""All that is asked of one model, as its part of the result.

EfficientNet-Lite0 has more peers than the others: torchao, which needs turns of its own, and
onnxruntime's tool, whose defaults ruin a transformer.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from handover import Given
from models import Model, Sources

from burnish.bench import Race
from burnish.errors import BurnishError
from ptq import claims as claiming
from ptq.costs import quantizing
from ptq.entrants import FLOAT, OURS, Answers, Entrant
from ptq.measure import (
    BATCHES,
    Effort,
    Telling,
    answer_all,
    field_of,
    quantize_all,
    race_all,
)
from ptq.rows import agreement, latency_of, rows_of
from ptq.tasks import prepare
from ptq.tools import NNCF, PEERS, ToolFailed, Tools
from ptq.torchao import LABEL as TORCHAO
from ptq.torchao import Torchao, turns


@dataclass
class Part:
    """One model's part of the result."""

    phases: dict[str, float] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    claims: list[dict[str, Any]] = field(default_factory=list)
    quantizing: dict[str, Any] = field(default_factory=dict)
    tools: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Note how long a phase took."""
        start = time.monotonic()
        yield
        self.phases[name] = round(time.monotonic() - start, 1)


def compare(
    model: Model, sources: Sources, tools: Tools, effort: Effort, telling: Telling
) -> tuple[Part, Given]:
    """Quantize with every tool, answer, race, and work the claims out."""
    part = Part()
    tools = replace(tools, work=tools.work / model.name)
    with part.timed("prepare"):
        task, reference = prepare(model, sources, tools.work, tools.threads)
    names = PEERS if model.name == "lite0" else NNCF
    with part.timed("quantize once"):
        done, part.failed = quantize_all(tools, names, telling)
    entered = field_of(tools, done, reference)
    with part.timed("answers"):
        found, failed = answer_all(entered, model, telling)
    with part.timed("races"):
        races = race_all(entered, task, effort, telling)
    part.rows = rows_of(model, entered, races, found, failed)
    if "torchao_pt2e" in done:
        with part.timed("torchao"):
            part.rows += _torchao(tools, task, effort, done, entered, races, found, part, telling)
    with part.timed("quantize by turns"):
        opponents = tuple(name for name in NNCF if name in done)
        part.quantizing = quantizing(tools, opponents, effort.repeats, telling.watch)
    part.quantizing["once"] = {item["tool"]: item["seconds"] for item in done.values()}
    part.tools = {item["tool"]: item["versions"] for item in done.values()}
    part.settings = {
        "calibration": task.num_calibration,
        "validation": task.num_samples - task.num_calibration,
        "tools": {item["tool"]: item["settings"] for item in done.values()},
    }
    part.claims = _claims(model, part, entered, races, found)
    return part, task


def _claims(
    model: Model,
    part: Part,
    entered: Sequence[Entrant],
    races: Mapping[int, Race],
    found: Mapping[str, Answers],
) -> list[dict[str, Any]]:
    claims = [claiming.quantizing_claim(part.quantizing["ratios"])]
    for batch in BATCHES:
        claims += claiming.speed_claims(entered, races[batch], batch)
    claims += claiming.torchao_claims(part.rows, TORCHAO)
    if model.name == "lite0":
        claims += claiming.agreement_claims(part.rows)
    claims += claiming.quality_claims(model, entered, found)
    return [{**item, "claim": f"{model.name}: {item['claim']}"} for item in claims]


def _torchao(
    tools: Tools,
    task: Given,
    effort: Effort,
    done: Mapping[str, Any],
    entered: Sequence[Entrant],
    races: Mapping[int, Race],
    found: Mapping[str, Answers],
    part: Part,
    telling: Telling,
) -> list[dict[str, Any]]:
    """torchao's row against our fastest at batch 1; none, and the reason noted, where it fails."""
    mine = [e for e in entered if e.tool == OURS and races[1].timing(e.label).failed is None]
    truth = next((found[e.label].classes for e in entered if e.tool == FLOAT), None)
    if not mine or truth is None:
        return []
    opponent = min(mine, key=lambda e: races[1].timing(e.label).p50)
    try:
        row = _torchao_row(tools, task, effort, opponent, truth, telling)
    except (ToolFailed, BurnishError) as error:
        part.failed["torchao_worker"] = str(error)
        return []
    kept = done["torchao_pt2e"]
    return [{**row, "file": kept["file"], "coverage": kept["coverage"]}]


def _torchao_row(
    tools: Tools,
    task: Given,
    effort: Effort,
    opponent: Entrant,
    truth: Sequence[int],
    telling: Telling,
) -> dict[str, Any]:
    """Raced by turns against `opponent`, because it has no worker of ours."""
    start = task.num_calibration
    latency = {}
    with Torchao(tools, tools.work / "torchao_pt2e") as worker:
        with telling.console.status("torchao: inductor compiles and answers"):
            classes = worker.classes(start, start + len(truth), BATCHES[-1])
        for batch in BATCHES:
            with telling.console.status(f"torchao: inductor compiles for batch {batch}"):
                worker.time(batch, 1)
            run = turns(
                worker,
                opponent.label,
                opponent.artifact,
                task.samples(0, batch),
                batch=batch,
                rounds=effort.rounds,
                watch=telling.watch,
            )
            latency[str(batch)] = latency_of(run, TORCHAO, [opponent.label])
    return {
        "model": task.model,
        "label": TORCHAO,
        "tool": "torchao PT2E",
        "runtime": "inductor",
        "execution": "float32",
        "precision": "int8",
        "failed": None,
        "agreement": agreement(classes, truth),
        "n": len(truth),
        "latency": latency,
    }

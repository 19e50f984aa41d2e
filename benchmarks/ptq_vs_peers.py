"""Post-training int8 quantization: Burnish against nncf, onnxruntime's own tool and torchao.

    python benchmarks/ptq_vs_peers.py --images PHOTOS --labels MAP.json [--quick]

All quantize EfficientNet-Lite0 with the same 128 photos, each in a process of its own, the peers in
a second environment that is built on the first run. Then every file is raced on every runtime that
reads it, interleaved, on the same threads, and its answers are compared with the float model's on
the photos that calibrated nothing. What we claim is worked out from that, met or missed. What the
result holds is told in benchmarks/README.md.

Left out: quality against labels (examples/efficientnet_lite0.py has it); other networks.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import Progress, TaskID, track

ROOT = Path(__file__).resolve().parents[1]
for _folder in (ROOT / "src", ROOT / "examples", ROOT / "benchmarks" / "peers"):
    sys.path.insert(0, str(_folder))

from efficientnet_lite0 import NUM_CALIBRATION, SEED, find_photos, model, preprocess  # noqa: E402
from handover import INPUT, Given  # noqa: E402
from ptq import claims as claiming  # noqa: E402
from ptq.costs import memory, quantizing  # noqa: E402
from ptq.entrants import FLOAT, OURS, Answers, Entrant, answers, entrants  # noqa: E402
from ptq.environment import peers_python  # noqa: E402
from ptq.rows import agreement, latency_of, rows_of  # noqa: E402
from ptq.table import show  # noqa: E402
from ptq.tools import OURS as OUR_TOOL  # noqa: E402
from ptq.tools import PEERS, ToolFailed, Tools, pin  # noqa: E402
from ptq.torchao import LABEL as TORCHAO  # noqa: E402
from ptq.torchao import Torchao, turns  # noqa: E402

from burnish.bench import Environment, Race, race  # noqa: E402
from burnish.bundle import Artifact  # noqa: E402
from burnish.errors import BurnishError, RuntimeFailed  # noqa: E402
from burnish.graph import trace  # noqa: E402
from burnish.hardware import detect  # noqa: E402
from burnish.runtimes import export  # noqa: E402

RACED = ("nncf_openvino", "nncf_onnx", "onnxruntime_static")  # torchao's has no runtime of ours
BATCHES = (1, 16)
ANSWER_BATCH = 16
T = TypeVar("T")
console = Console(width=None if sys.stdout.isatty() else 160)


@dataclass(frozen=True)
class Effort:
    """How long everything is measured; `num_test` photos for agreement, None for all."""

    repeats: int
    seconds: Mapping[int, float]
    rounds: int
    num_test: int | None


FULL = Effort(repeats=6, seconds={1: 90.0, 16: 180.0}, rounds=30, num_test=None)
QUICK = Effort(repeats=2, seconds={1: 4.0, 16: 4.0}, rounds=8, num_test=96)


def watch(items: Iterable[T], title: str) -> Iterable[T]:
    """A progress bar around an iterable."""
    return track(items, title, console=console)


def prepare(given: argparse.Namespace, work: Path) -> tuple[Given, Artifact]:
    """Write the photos, the task and the float model into the work folder."""
    work.mkdir(parents=True, exist_ok=True)
    photos = find_photos(given.images, given.labels)
    n = len(photos.paths)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(SEED)).tolist()
    with (work / "images.u8").open("wb") as file:
        for index in watch(order, "reading photos"):
            pixels = (preprocess(photos.paths[index]) * 128 + 127).to(torch.uint8)
            file.write(pixels.numpy().tobytes())
    task = Given(work, given.threads, NUM_CALIBRATION, n)
    task.save()
    traced = trace(model(), (torch.from_numpy(task.images(0, 2)),))
    reference = export(traced, "onnxruntime", work)
    (work / reference.files[0]).replace(task.float_file)
    return task, Artifact(
        folder=work,
        runtime="onnxruntime",
        precision="float32",
        files=(task.float_file.name,),
        inputs=reference.inputs,
        outputs=reference.outputs,
    )


def quantize_all(tools: Tools) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Let every tool quantize once: what each handed back, and the peers' failures."""
    done: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for name in watch((OUR_TOOL, *PEERS), "each tool quantizes"):
        try:
            done[name] = tools.run(name, tools.work / name)
        except ToolFailed as error:
            if name == OUR_TOOL:
                raise
            failed[name] = str(error)
            console.print(f"[red]{name} failed[/red]; its rows will be missing")
    return done, failed


def field_of(tools: Tools, done: Mapping[str, Any], reference: Artifact) -> list[Entrant]:
    """Every file on every runtime that reads it."""
    ours = tools.work / OUR_TOOL
    files: dict[str, tuple[Path, ...]] = {}
    if OUR_TOOL in done:
        opened = [Artifact.open(ours / runtime) for runtime in ("onnxruntime", "openvino")]
        files[OURS] = tuple(artifact.folder / artifact.files[0] for artifact in opened)
    for name in RACED:
        if name in done:
            files[done[name]["tool"]] = (tools.work / name / done[name]["file"],)
    return entrants(reference, files, tools.threads, detect().supports_bfloat16)


def answer_all(
    field: Sequence[Entrant], task: Given, num_test: int | None
) -> tuple[dict[str, Answers], dict[str, str]]:
    """The answers of every entrant on the test photos, and the failures."""
    start = task.num_calibration
    stop = task.num_images if num_test is None else start + num_test
    edges = range(start, stop, ANSWER_BATCH)
    batches = [{INPUT: task.images(at, min(at + ANSWER_BATCH, stop))} for at in edges]
    found: dict[str, Answers] = {}
    failed: dict[str, str] = {}
    for entrant in watch(field, "answers and coverage"):
        try:
            found[entrant.label] = answers(entrant, batches)
        except RuntimeFailed as error:
            failed[entrant.label] = str(error)
    return found, failed


def race_all(field: Sequence[Entrant], task: Given, effort: Effort) -> dict[int, Race]:
    """One race for each batch size, all entrants taking turns."""
    races = {}
    for batch in BATCHES:
        with Progress(console=console) as bar:
            shown = bar.add_task(f"racing {len(field)} artifacts, batch {batch}", total=1.0)
            races[batch] = race(
                {entrant.label: entrant.artifact for entrant in field},
                {INPUT: task.images(0, batch)},
                seconds=effort.seconds[batch],
                batch=batch,
                progress=partial(_advance, bar, shown),
            )
    return races


def torchao_row(
    tools: Tools,
    task: Given,
    effort: Effort,
    done: Mapping[str, Any],
    opponent: Entrant,
    truth: Sequence[int],
) -> dict[str, Any]:
    """torchao's row: raced by turns against `opponent`, because it has no worker of ours."""
    start = task.num_calibration
    latency = {}
    with Torchao(tools, tools.work / "torchao_pt2e") as worker:
        with console.status("torchao: inductor compiles and answers"):
            classes = worker.classes(start, start + len(truth), ANSWER_BATCH)
        for batch in BATCHES:
            inputs = {INPUT: task.images(0, batch)}
            with console.status(f"torchao: inductor compiles for batch {batch}"):
                worker.time(batch, 1)
            run = turns(
                worker,
                opponent.label,
                opponent.artifact,
                inputs,
                batch=batch,
                rounds=effort.rounds,
                watch=watch,
            )
            latency[str(batch)] = latency_of(run, TORCHAO, [opponent.label])
    return {
        "label": TORCHAO,
        "tool": "torchao PT2E",
        "runtime": "inductor",
        "execution": "float32",
        "precision": "int8",
        "file": done["file"],
        "failed": None,
        "coverage": done["coverage"],
        "agreement": agreement(classes, truth),
        "n": len(truth),
        "latency": latency,
    }


def _advance(bar: Progress, shown: TaskID, share: float) -> None:
    bar.update(shown, completed=share)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    data = ROOT.parent / "shared" / "data" / "caltech44_mini"
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, default=data, help="a folder for each class")
    parser.add_argument("--labels", type=Path, help="JSON: accepted classes")
    parser.add_argument("--env", type=Path, default=ROOT / ".venv-peers", help="peers' packages")
    parser.add_argument("--work", type=Path, default=ROOT / "burnish-runs" / "ptq_vs_peers")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="few rounds: does it work at all")
    results = ROOT / "benchmarks" / "results" / "ptq_vs_peers.json"
    parser.add_argument("--output", type=Path, help=f"default {results}; with --quick: none")
    given = parser.parse_args(arguments)
    given.labels = given.labels or given.images / "imagenet_map.json"
    given.output = given.output or (None if given.quick else results)
    return given


@contextlib.contextmanager
def timed(phases: dict[str, float], name: str) -> Iterator[None]:
    """Note how long a phase took."""
    start = time.monotonic()
    yield
    phases[name] = round(time.monotonic() - start, 1)


def measure(given: argparse.Namespace, effort: Effort) -> dict[str, Any]:
    """Everything, as the document that is committed."""
    phases: dict[str, float] = {}
    pin(given.threads)
    torch.set_num_threads(given.threads)
    with timed(phases, "environment"):
        tools = Tools.here(peers_python(given.env.absolute()), given.work.resolve(), given.threads)
    with timed(phases, "prepare"):
        task, reference = prepare(given, tools.work)
    with timed(phases, "quantize once"):
        done, broken = quantize_all(tools)
    field = field_of(tools, done, reference)
    with timed(phases, "answers"):
        found, failed = answer_all(field, task, effort.num_test)
    with timed(phases, "races"):
        races = race_all(field, task, effort)
    rows = rows_of(field, races, found, failed)
    with timed(phases, "torchao"):
        rows += _torchao(tools, task, effort, done, field, races, found, broken)
    with timed(phases, "quantize by turns"):
        opponents = tuple(name for name in ("nncf_openvino", "nncf_onnx") if name in done)
        costs = quantizing(tools, opponents, effort.repeats, watch)
    with timed(phases, "memory"):
        peaks = memory(tools, watch)
    claims = [claiming.quantizing_claim(costs["ratios"])]
    for batch in BATCHES:
        claims += claiming.speed_claims(field, races[batch], batch)
    claims += claiming.torchao_claims(rows, TORCHAO)
    claims += [*claiming.agreement_claims(rows), *claiming.memory_claims(peaks)]
    return {
        "schema": 1,
        "benchmark": "ptq_vs_peers",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": phases,
        "environment": Environment.capture().to_json(),
        "peers": {item["tool"]: item["versions"] for item in done.values()},
        "settings": {
            "model": "EfficientNet-Lite0, ImageNet weights",
            "photos": task.num_images,
            "calibration": NUM_CALIBRATION,
            "seed": SEED,
            "threads": given.threads,
            "quick": effort is QUICK,
            "race_seconds": {str(batch): effort.seconds[batch] for batch in BATCHES},
            "tools": {item["tool"]: item["settings"] for item in done.values()},
        },
        "quantizing": {**costs, "once": {item["tool"]: item["seconds"] for item in done.values()}},
        "memory": peaks,
        "rows": rows,
        "failed_tools": broken,
        "claims": claims,
    }


def _torchao(
    tools: Tools,
    task: Given,
    effort: Effort,
    done: Mapping[str, Any],
    field: Sequence[Entrant],
    races: Mapping[int, Race],
    found: Mapping[str, Answers],
    broken: dict[str, str],
) -> list[dict[str, Any]]:
    """torchao's row against our fastest at batch 1; none, and the reason noted, where it fails."""
    mine = [e for e in field if e.tool == OURS and races[1].timing(e.label).failed is None]
    truth = next((found[e.label].classes for e in field if e.tool == FLOAT), None)
    if "torchao_pt2e" not in done or not mine or truth is None:
        return []
    opponent = min(mine, key=lambda e: races[1].timing(e.label).p50)
    try:
        return [torchao_row(tools, task, effort, done["torchao_pt2e"], opponent, truth)]
    except (ToolFailed, BurnishError) as error:
        broken["torchao_worker"] = str(error)
        return []


def main() -> int:
    """Run the benchmark; the exit code is 0 also where a claim is missed: that is a result."""
    given = parse()
    try:
        document = measure(given, QUICK if given.quick else FULL)
    except (BurnishError, ToolFailed) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    show(document, console)
    for name, reason in document["failed_tools"].items():
        console.print(f"[red]{name}[/red] {reason}", markup=True, highlight=False)
    if given.output is not None:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        console.print(f"Result: {given.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

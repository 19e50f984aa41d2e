"""A made-up machine, tiny trained networks, and data on which they are nearly always right.

Times come out of a function of the variant and its threads, so that a pick can be foreseen; what a
network answers is real. Where a test is about choices and not about workers, exports are made once
and copied, and artifacts answer in this process.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn

from burnish.auto import Result, optimize
from burnish.bench import Race, race
from burnish.bundle import Artifact, OpTime, Worker
from burnish.bundle._onnxruntime import OnnxSession
from burnish.goal import Budget, Goal, Inputs, Target, Task
from burnish.graph import Traced
from burnish.metrics import top1
from burnish.profile import Preflight, Profile
from burnish.runtimes import export

Array = np.ndarray[Any, Any]
Batch = tuple[torch.Tensor, torch.Tensor]
CLASSES = 4
OPERATORS = ("first:conv2d", "second:conv2d", "third:conv2d", "head:linear")

# --- time


@dataclass
class MadeUp:
    """A `Bench` whose times are made up.

    `seconds(key, threads)` is the time of a variant, `operators(key)` of its operators; each run
    strays by up to `noise`, the same way in equal races. `minutes` pass with every race.
    """

    seconds: Callable[[str, int], float]
    operators: Callable[[str], Mapping[str, float]] = lambda key: {}
    noise: float = 0.002
    minutes: float = 0.0
    clock: float = 0.0
    foreseen: Preflight | None = None
    raced: list[tuple[str, ...]] = field(default_factory=list)

    def race(
        self,
        artifacts: Mapping[str, Artifact],
        inputs: Mapping[str, Array],
        terms: Any,
        progress: Callable[[float], None],
    ) -> Race:
        self.raced.append(tuple(artifacts))
        self.clock += 60 * self.minutes
        draws: dict[str, np.random.Generator] = {}

        def clock(artifact: Artifact, _: Mapping[str, Array], runs: int) -> Array:
            key, threads = variant_of(artifact), artifact.options.threads or 0
            seed = zlib.crc32(f"{key}{threads}{terms.seed}".encode())
            random = draws.setdefault(f"{key}{threads}", np.random.default_rng(seed))
            times: Array = self.seconds(key, threads) * (1 + self.noise * random.random(runs))
            return times

        return race(
            artifacts,
            inputs,
            seconds=0.2,
            confidence=terms.confidence,
            seed=terms.seed,
            batch=terms.batch,
            progress=progress,
            clock=clock,
        )

    def op_times(self, artifact: Artifact, inputs: Mapping[str, Array]) -> tuple[OpTime, ...]:
        times = self.operators(variant_of(artifact))
        return tuple(OpTime(name, "made up", seconds) for name, seconds in times.items())

    def preflight(self, *_: Any) -> Preflight | None:
        return self.foreseen

    def profile(self, *_: Any) -> Profile | None:
        return None

    def now(self) -> float:
        return self.clock


def variant_of(artifact: Artifact) -> str:
    """The key of the variant an artifact of a run folder belongs to."""
    return artifact.folder.parent.name


def by_precision(float32: float, int8: float) -> Callable[[str, int], float]:
    """Milliseconds by precision alone; int8 with ranges taken at run time is as slow as float."""

    def seconds(key: str, threads: int) -> float:
        return 1e-3 * (int8 if "-int8" in key and "dynamic" not in key else float32)

    return seconds


# --- networks and data


class Net(nn.Module):
    """Images [n, channels, 8, 8] to logits [n, 4]; three convolutions and a linear layer."""

    def __init__(self, channels: int = 1, middle: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 8, 3, padding=1)
        self.second = nn.Conv2d(8, middle, 3, stride=2, padding=1)
        self.third = nn.Conv2d(middle, 8, 3, padding=1)
        self.head = nn.Linear(8 * 16, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.first(x))
        x = F.relu(self.second(x))
        x = F.relu(self.third(x))
        logits: torch.Tensor = self.head(x.flatten(1))
        return logits


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Sums do not depend on how many cores there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@functools.cache
def data(split: str, n: int, noise: float = 0.5) -> Batch:
    """Images of one of four patterns under noise, and which it was."""
    patterns = torch.randn(CLASSES, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(zlib.crc32(split.encode()))
    labels = torch.randint(0, CLASSES, (n,), generator=generator)
    drawn = torch.randn(n, 1, 8, 8, generator=generator)
    return patterns[labels] + noise * drawn, labels


def batches(found: Batch, size: int = 100) -> list[Batch]:
    return list(zip(torch.split(found[0], size), torch.split(found[1], size), strict=True))


@functools.cache
def trained(biased: bool = True) -> Net:
    """Trained for a second; right nearly always. Without biases whatever the images' reach."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = Net()
    if not biased:
        for name, parameter in net.named_parameters():
            if name.endswith("bias"):
                parameter.data.zero_().requires_grad_(False)
                parameter.requires_grad_(False)
    images, labels = data("train", 512)
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=0.01)
    with one_thread():
        for _ in range(40):
            optimizer.zero_grad()
            F.cross_entropy(net(images), labels).backward()
            optimizer.step()
    return net.eval().requires_grad_(False)


@functools.cache
def with_outliers_at_the_input() -> Net:
    """A second input channel of a thousand times the reach, that the network does not look at."""
    net, kept = Net(channels=2), trained().state_dict()
    weight = torch.cat([kept["first.weight"], torch.zeros(8, 1, 3, 3)], 1)
    net.load_state_dict({**kept, "first.weight": weight})
    return net.eval().requires_grad_(False)


@functools.cache
def with_outliers_inside() -> Net:
    """The second convolution gives a further channel, of huge values nothing looks at."""
    net, kept = Net(middle=9), trained().state_dict()
    huge = 1e4 * kept["second.weight"].abs().mean(0, keepdim=True)
    state = {
        "second.weight": torch.cat([kept["second.weight"], huge]),
        "second.bias": torch.cat([kept["second.bias"], torch.zeros(1)]),
        "third.weight": torch.cat([kept["third.weight"], torch.zeros(8, 1, 3, 3)], 1),
    }
    net.load_state_dict({**kept, **state})
    return net.eval().requires_grad_(False)


def two_channels(found: Batch) -> Batch:
    """The images with a second channel of outliers."""
    images, labels = found
    generator = torch.Generator().manual_seed(len(images))
    outliers = 1e3 * torch.randn(images.shape, generator=generator)
    return torch.cat([images, outliers], 1), labels


def task(channels: int = 1, n: int = 400, **changes: Any) -> Task:
    """The task of the networks above; `changes` replace what it holds."""
    found = {
        "calibration": batches(data("calibration", 64), 32),
        "validation": batches(data("validation", n)),
        "test": batches(data("test", n)),
    }
    if channels == 2:
        found = {name: [two_channels(b) for b in split] for name, split in found.items()}
    example = found["calibration"][0][0][:2]
    return Task(**{"inputs": Inputs(example), "metric": top1, **found, **changes})


def goal(
    given: Task | None = None, *, threads: int | None = 1, seed: int = 0, **budget: Any
) -> Goal:
    """A goal for onnxruntime alone; `budget` holds settings of the budget."""
    settings = {"max_drop": 0.02, "minutes": None, **budget}
    target = Target(runtimes=("onnxruntime",), threads=threads)
    return Goal(given or task(), target, Budget(**settings), seed)


def quietly(model: nn.Module, wanted: Goal, bench: MadeUp, folder: Path, **more: Any) -> Result:
    """`optimize` without a word."""
    console = Console(file=io.StringIO())
    with one_thread():
        return optimize(model, wanted, bench=bench, run_folder=folder, console=console, **more)


def keys_of(run: Path) -> list[str]:
    """What the journal of a run folder holds, in order."""
    return [json.loads(line)["key"] for line in (run / "journal.jsonl").read_text().splitlines()]


def candidate(record: Mapping[str, Any], label: str) -> Any:
    """The row of a report that has this label."""
    return next(item for item in record["candidates"] if item["label"] == label)


# --- exports made once, answers in this process


class Exports:
    """Stands for `runtimes.export`: a graph that was exported before is copied."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked = 0

    def __call__(
        self, model: Traced, name: str, folder: Path, *, precision: str = "float32"
    ) -> Artifact:
        self.asked += 1
        made = self.folder / f"{name}-{precision}-{digest(model)}"
        if not made.exists():
            export(model, name, made, precision=precision)
        shutil.copytree(made, folder, dirs_exist_ok=True)
        return Artifact.open(folder)


def digest(model: Traced) -> str:
    """Of a graph and its tensors."""
    hasher = hashlib.blake2b(str(model.graph_module.graph).encode(), digest_size=8)
    for name, tensor in sorted(model.graph_module.state_dict().items()):
        hasher.update(name.encode() + tensor.contiguous().numpy().tobytes())
    hasher.update(str(model.inputs).encode())
    return hasher.hexdigest()


class Here(Worker):
    """A worker in this process."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.session = OnnxSession(artifact, 1)

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        return self.session.run([inputs[port.name] for port in self.artifact.inputs])

    def close(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

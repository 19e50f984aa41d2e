"""torchao's model beside the others: a worker of its own environment, by turns with one of ours.

It cannot run in a worker of ours, so it is not part of the race. It is raced against one artifact
of it, turn by turn in the same way: the first run of a turn is not counted, the order changes from
round to round, and the ratio is taken within a round.
"""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from burnish.bench import Race, Timing
from burnish.bundle import Artifact, Worker
from ptq.tools import ToolFailed, Tools

LABEL = "torchao PT2E, inductor"
_WARMUP = 5
_TURN = 0.03  # seconds


class Torchao:
    """The worker process; a context manager. Compiles at the first request of each batch size."""

    def __init__(self, tools: Tools, out: Path) -> None:
        self._log = (out / "worker.txt").open("w")
        self._process = subprocess.Popen(
            tools.command("torchao_worker", out),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=tools.variables({}),
            text=True,
        )

    def __enter__(self) -> Torchao:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()

    def classes(self, start: int, stop: int, batch: int) -> list[int]:
        """The largest logit's class of photos start to stop."""
        request = {"do": "classes", "start": start, "stop": stop, "batch": batch}
        return [int(value) for value in self._ask(request)["classes"]]

    def time(self, batch: int, repeats: int) -> np.ndarray[Any, Any]:
        """Seconds of each run."""
        request = {"do": "time", "batch": batch, "repeats": repeats}
        return np.asarray(self._ask(request)["seconds"], dtype=np.float64)

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError as error:
            raise ToolFailed(f"torchao's worker is gone: {error}; see {self._log.name}") from None
        if not line:
            raise ToolFailed(f"torchao's worker ended while at {request}; see {self._log.name}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def turns(
    torchao: Torchao,
    label: str,
    opponent: Artifact,
    inputs: Mapping[str, np.ndarray[Any, Any]],
    *,
    batch: int,
    rounds: int,
    watch: Callable[[Iterable[int], str], Iterable[int]],
) -> Race:
    """Race torchao's model against an artifact, as `burnish.bench.race` would."""
    with Worker(opponent) as worker:
        sides: dict[str, Callable[[int], np.ndarray[Any, Any]]] = {
            LABEL: lambda runs: torchao.time(batch, runs),
            label: lambda runs: worker.time(inputs, repeats=runs),
        }
        medians: dict[str, list[float]] = {name: [] for name in sides}
        runs = {name: _length(side) for name, side in sides.items()}
        for index in watch(range(rounds), f"torchao by turns, batch {batch}"):
            for name in list(sides)[:: 1 if index % 2 else -1]:
                medians[name].append(float(np.median(sides[name](runs[name] + 1)[1:])))
    timings = tuple(_timing(name, medians[name], batch) for name in sides)
    return Race(timings, {name: tuple(values) for name, values in medians.items()}, 0.95)


def _length(side: Callable[[int], np.ndarray[Any, Any]]) -> int:
    """Runs of one turn, after a warm-up."""
    return max(1, math.ceil(_TURN / float(np.median(side(_WARMUP)))))


def _timing(label: str, medians: list[float], batch: int) -> Timing:
    p50, p90, p99 = (float(value) for value in np.percentile(medians, (50, 90, 99)))
    mean = float(np.mean(medians))
    return Timing(
        label=label,
        p50=p50,
        p90=p90,
        p99=p99,
        mean=mean,
        throughput=batch / mean,
        load_seconds=math.nan,
        memory_bytes=0,
        size_bytes=0,
        rounds=len(medians),
        failed=None,
        target=f"batch={batch}",
    )

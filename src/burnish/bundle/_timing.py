"""How fast is this bundle here? The answer to `burnish bench BUNDLE`, without torch.

One artifact alone, in the worker that ships with it, on its own sample inputs at the batch asked
for. Untimed runs come first, until a fifth of the time is gone. On a machine that does other work
besides, the percentiles tell what happened, not what the artifact can do: to compare two, race them
(`burnish.bench.race`), which takes turns.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from burnish.bundle._batch import batch_size, with_batch
from burnish.bundle._bundle import Bundle
from burnish.bundle._process import Worker
from burnish.errors import InvalidInput

_WARMUP_SHARE = 0.2
_TURN = 0.1  # seconds of runs asked for at once
_MOST_RUNS = 100_000


@dataclass(frozen=True)
class Timings:
    """Seconds per run (percentiles and mean), samples per second, seconds to load, peak bytes."""

    p50: float
    p90: float
    p99: float
    mean: float
    throughput: float
    load_seconds: float
    memory_bytes: int
    runs: int
    batch: int


def time_bundle(
    folder: Path, *, seconds: float = 5.0, batch: int = 1, threads: int | None = None
) -> Timings:
    """Time the bundle in `folder` for about `seconds`, with its recorded options.

    `threads` overrides the recorded number. A model without a batch dimension runs on its sample
    inputs as they are, and a run counts as one sample.

    Raises `Damaged`, `MissingExtra`, `RuntimeFailed`, and `InvalidInput` for a batch the artifact
    does not take.
    """
    if seconds <= 0:
        raise InvalidInput(f"seconds is {seconds}; use a number above 0")
    bundle = Bundle.open(folder)
    inputs, _ = bundle.check_arrays()
    artifact = bundle.artifact
    if batch != 1 or batch_size(artifact.inputs, inputs) is not None:
        inputs = with_batch(artifact.inputs, inputs, batch)
    if threads is not None:
        artifact = artifact.with_options(threads=threads)
    with Worker(artifact) as worker:
        start = time.monotonic()
        single = float(worker.time(inputs, repeats=1, warmup=1)[0])
        runs = max(1, min(_MOST_RUNS, int(_TURN / max(single, 1e-9))))
        while time.monotonic() - start < seconds * _WARMUP_SHARE:
            worker.time(inputs, repeats=runs)
        blocks = [worker.time(inputs, repeats=runs)]
        while time.monotonic() - start < seconds:
            blocks.append(worker.time(inputs, repeats=runs))
        memory = worker.memory_bytes()
    times = np.concatenate(blocks)
    p50, p90, p99 = (float(value) for value in np.percentile(times, (50, 90, 99)))
    mean = float(times.mean())
    return Timings(
        p50, p90, p99, mean, batch / mean, worker.load_seconds, memory, len(times), batch
    )

"""What takes turns: an artifact in a process of its own, in several at once, or times made up.

A crew is one or more workers of the same artifact. Several run at the same time, each on cores of
its own: parallel streams as a server would start them. What they do to one another (shared caches,
memory bandwidth, clock) is in their times. They are told one moment to begin, on the clock all
processes share, and only runs that began while every one of them was running are counted; so the
number of streams divided by their mean time is what they get done together, even where one of them
is slower than the others.

Left out: streams within one process (OpenVINO's, or several threads in one onnxruntime session).
They share the weights, so they need less memory and sometimes less bandwidth than we tell.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from burnish.bundle import Artifact, Worker
from burnish.errors import InvalidInput, RuntimeFailed

Array = np.ndarray[Any, Any]
Inputs = Mapping[str, Array]
Clock = Callable[[Artifact, Inputs, int], Array]

# OpenMP's threads under torch go on spinning after a run (measured: 7 ms of CPU, none later); the
# next in turn must not pay for it. The other runtimes' threads rest at once.
_SPINS_ON = {"eager": 0.01, "inductor": 0.01}  # seconds
_LEAD = 0.005  # seconds until a crew begins, for the request to arrive at all
_PIPE = 0.3e9  # bytes per second at which inputs get there, at the least
_ATTEMPTS = 6


class Entrant(Protocol):
    """An artifact that can be timed."""

    load_seconds: float

    def time(self, runs: int) -> Array:
        """Seconds of about `runs` runs, after one that is not counted. Raises `RuntimeFailed`."""

    def memory_bytes(self) -> int:
        """Peak so far; 0 where it is not known."""

    def close(self) -> None:
        """Give everything back."""


class Crew:
    """`streams` workers of one artifact, started at once, and again after one of them failed."""

    def __init__(self, artifact: Artifact, streams: int, timeout: float) -> None:
        self._artifact = artifact
        self._streams = streams
        self._timeout = timeout
        self._lead = _LEAD
        self._workers: list[Worker] = []
        self._start()

    def _start(self) -> None:
        try:
            for place in range(self._streams):
                self._workers.append(Worker(self._artifact, timeout=self._timeout, place=place))
        except BaseException:
            self.close()
            raise

    def prepare(self, inputs: Inputs) -> float:
        """Have done what is done once for these sizes; seconds of loading and preparing so far."""
        if not self._workers:
            self._start()
        try:
            for worker in self._workers:
                worker.prepare(inputs)
        except BaseException:
            self.close()
            raise
        return max(worker.load_seconds for worker in self._workers)

    def time(self, inputs: Inputs, runs: int) -> Array:
        """Seconds of `runs` runs after one that is not counted; of all streams, while all run."""
        if not self._workers:
            self._start()
        try:
            if self._streams == 1:
                seconds = self._workers[0].time(inputs, repeats=runs + 1)[1:]
            else:
                seconds = self._together(inputs, runs + 1)
        except RuntimeFailed:
            self.close()
            raise
        _rest(self._artifact)
        return seconds

    def _together(self, inputs: Inputs, runs: int) -> Array:
        arriving = self._streams * sum(array.nbytes for array in inputs.values()) / _PIPE
        for _ in range(_ATTEMPTS):
            at = time.perf_counter() + self._lead + arriving

            def spans(worker: Worker, at: float = at) -> Array:
                return worker.spans(inputs, repeats=runs, at=at)

            with ThreadPoolExecutor(self._streams) as threads:
                seconds = overlapping(list(threads.map(spans, self._workers)))
            if len(seconds):
                return seconds
            self._lead *= 2
        raise RuntimeFailed(
            f"{self._streams} workers of {self._artifact.runtime} never ran at the same time",
            "hung",
        )

    def memory_bytes(self) -> int:
        """Peak of all streams together; 0 when none is running."""
        return sum(worker.memory_bytes() for worker in self._workers)

    def close(self) -> None:
        """End them all."""
        while self._workers:
            self._workers.pop().close()


def _rest(artifact: Artifact) -> None:
    time.sleep(_SPINS_ON.get(artifact.runtime, 0.0))


def overlapping(spans: Sequence[Array]) -> Array:
    """Seconds of the runs that began while every stream was running; each one's first left out.

    `spans` holds for each stream when its runs began and ended, in order: [runs, 2].
    """
    all_began = max(span[0, 0] for span in spans)
    one_ended = min(span[-1, 1] for span in spans)
    counted = []
    for span in spans:
        began = span[1:, 0]
        inside = (began >= all_began) & (began < one_ended)
        counted.append((span[1:, 1] - began)[inside])
    return np.concatenate(counted)


class Process:
    """A crew with its inputs, both its own."""

    def __init__(self, crew: Crew, inputs: Inputs) -> None:
        self._crew = crew
        self._inputs = inputs
        self.load_seconds = crew.prepare(inputs)

    def time(self, runs: int) -> Array:
        return self._crew.time(self._inputs, runs)

    def memory_bytes(self) -> int:
        return self._crew.memory_bytes()

    def close(self) -> None:
        self._crew.close()


class Loaned:
    """A worker that somebody else started and will end, with its inputs."""

    def __init__(self, worker: Worker, inputs: Inputs) -> None:
        self._worker = worker
        self._inputs = inputs
        worker.prepare(inputs)
        self.load_seconds = worker.load_seconds

    def time(self, runs: int) -> Array:
        seconds = self._worker.time(self._inputs, repeats=runs + 1)[1:]
        _rest(self._worker.artifact)
        return seconds

    def memory_bytes(self) -> int:
        return self._worker.memory_bytes()

    def close(self) -> None:
        pass


class MadeUp:
    """Times handed in; they pass as if they had been measured."""

    load_seconds = 0.0

    def __init__(self, artifact: Artifact, inputs: Inputs, clock: Clock) -> None:
        self._artifact = artifact
        self._inputs = inputs
        self._clock = clock
        self.elapsed = 0.0

    def time(self, runs: int) -> Array:
        count = runs + 1
        seconds = np.asarray(self._clock(self._artifact, self._inputs, count), dtype=np.float64)
        if seconds.shape != (count,) or not (seconds > 0).all():
            raise InvalidInput(
                f"the clock gave {seconds!r} where {count} times above 0 are expected"
            )
        self.elapsed += float(seconds.sum())
        return seconds[1:]

    def memory_bytes(self) -> int:
        return 0

    def close(self) -> None:
        pass

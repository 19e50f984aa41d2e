"""The child: loads one artifact, then runs and times it as its parent asks.

Started as `python -m burnish.bundle._worker`. Frames come and go on copies of standard input and
output; descriptor 0 itself is turned to nothing and 1 to standard error, so that a runtime that
prints cannot corrupt the protocol, and one that forks does not hold it open (the copies are closed
in any fork). Threads are pinned before any runtime is imported, and only the artifact's own runtime
ever is. A thread of its own reads the input: when the parent goes, the input ends and the child is
gone at once, even in the middle of a run, and with it whatever the runtime started.

The clock is read around each run, nothing else is inside it; between runs of a long series, at most
once a second, a sign of life is sent, by which the parent tells slow from hung.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from burnish.bundle._artifact import Artifact
from burnish.bundle._counting import count
from burnish.bundle._frames import receive, send
from burnish.bundle._record import Json
from burnish.bundle._session import Preparing, Session, loader
from burnish.errors import BurnishError

_SIGN_OF_LIFE = 1.0  # seconds
Arrays = list[np.ndarray[Any, Any]]


class _Child:
    def __init__(self, output: BinaryIO) -> None:
        self._output = output
        self._session: Session | None = None
        self._spoke = time.monotonic()

    def alive(self) -> None:
        now = time.monotonic()
        if now - self._spoke > _SIGN_OF_LIFE:
            self.send({"alive": True})

    def send(self, header: dict[str, Json], arrays: Arrays | None = None) -> None:
        send(self._output, header, arrays or [])
        self._spoke = time.monotonic()

    def answer(self, request: dict[str, Json], inputs: Arrays) -> tuple[dict[str, Json], Arrays]:
        match request["do"]:
            case "load":
                return self._load(request), []
            case "prepare":
                return {"prepared": self._prepare(inputs)}, []
            case "run":
                prepared = self._prepare(inputs)
                return {"prepared": prepared}, self._loaded().run(inputs)
            case "time":
                prepared = self._prepare(inputs)
                return {"prepared": prepared}, [self._spans(inputs, request)]
            case "count":
                prepared = self._prepare(inputs)
                counts = count(self._loaded(), inputs, request["repeats"], self.alive)
                return {"prepared": prepared, "counts": counts.to_json()}, []
            case "memory":
                return {"bytes": peak_memory()}, []
            case "modules":
                return {"modules": sorted(sys.modules)}, []
        raise AssertionError(f"no such request: {request['do']}")

    def _loaded(self) -> Session:
        assert self._session is not None
        return self._session

    def _load(self, request: dict[str, Json]) -> dict[str, Json]:
        artifact = Artifact.from_json(Path(request["folder"]), request["artifact"], "the artifact")
        load = loader(artifact.runtime)
        start = time.perf_counter()
        self._session = load(artifact, request["threads"])
        return {"seconds": time.perf_counter() - start}

    def _prepare(self, inputs: Arrays) -> float:
        """Seconds the session took to prepare for these sizes; 0 where it does no such thing."""
        session = self._loaded()
        if not isinstance(session, Preparing):
            return 0.0
        start = time.perf_counter()
        session.prepare(inputs, self.alive)
        return time.perf_counter() - start

    def _spans(self, inputs: Arrays, request: dict[str, Json]) -> np.ndarray[Any, Any]:
        run = self._loaded().run
        for _ in range(request["warmup"]):
            run(inputs)
            self.alive()
        spans = np.empty((request["repeats"], 2))
        if request["at"] is not None:
            time.sleep(max(0.0, request["at"] - time.perf_counter()))
        for index in range(request["repeats"]):
            start = time.perf_counter()
            run(inputs)
            end = time.perf_counter()
            spans[index] = start, end
            self.alive()
        return spans


def peak_memory() -> int:
    """Largest resident set this process has had, in bytes; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _read(stream: BinaryIO, requests: queue.SimpleQueue[tuple[dict[str, Json], Arrays]]) -> None:
    try:
        while True:
            requests.put(receive(stream))
    except (EOFError, OSError):
        _leave()


def _leave() -> None:
    if os.name == "posix" and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Unbuffered input and output of our own, away from descriptors 0 and 1."""
    copies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    if hasattr(os, "register_at_fork"):
        for copy in copies:
            os.register_at_fork(after_in_child=partial(os.close, copy))
    return open(copies[0], "rb", buffering=0), open(copies[1], "wb")


def _go_first() -> None:
    """Where memory runs out, the system is to end this process and not the one that measures."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _pin(cores: list[int] | None) -> None:
    if cores is not None:
        os.sched_setaffinity(0, cores)


def main() -> None:
    _go_first()
    source, output = _take_pipes()
    requests: queue.SimpleQueue[tuple[dict[str, Json], Arrays]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(source, requests), daemon=True).start()
    child = _Child(output)
    while True:
        request, inputs = requests.get()
        try:
            if request["do"] == "load":
                _pin(request["cores"])
            header, arrays = child.answer(request, inputs)
        except Exception as error:
            kind = type(error).__name__ if isinstance(error, BurnishError) else ""
            message = str(error) if kind else f"{type(error).__name__}: {error}"
            header, arrays = {"error": kind, "message": message}, []
        child.send({"done": True, **header}, arrays)


if __name__ == "__main__":
    main()

"""A worker: one child process with one artifact loaded in it.

Runtimes crash, hang and leak. So they do it in a process of their own, and what happened becomes a
`RuntimeFailed` of one artifact, with the child's last words. A request that brings no sign of life
for `timeout` seconds gets the child killed, which ends any read or write we are blocked in: one
mechanism for a child that hangs while computing, while reading, or while stopped. The child goes
when its input closes, so that none outlives us, however we end.

Threads: the runtime is told the artifact's number, libraries that read OMP_NUM_THREADS and its
likes find it there, and the child is pinned to the first so many usable cores where the system
allows pinning. "All" means the cores of this process's affinity mask; a container's CPU quota is
not seen here (`hardware.detect().cores` sees it: pass `threads`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, BinaryIO, cast

import numpy as np

from burnish.bundle._artifact import Artifact, OpTime, check_inputs
from burnish.bundle._counts import Counts
from burnish.bundle._frames import receive, send
from burnish.bundle._record import Json
from burnish.errors import Damaged, InvalidInput, MissingExtra, RuntimeFailed

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
_RAISED_AS = {"Damaged": Damaged, "MissingExtra": MissingExtra}
_STDERR_KEPT = 100  # lines
_STDERR_SHOWN = 40


class Worker:
    """`artifact` loaded in a child process; a context manager.

    Raises `RuntimeFailed` (`.reason` "crashed", "hung" or "refused") when loading fails,
    `MissingExtra` when the runtime is not installed, `Damaged` for a file that is not safe to load.
    `timeout` is the longest silence in seconds before the child counts as hung; a single run must
    be shorter. `place` counts workers that run at the same time, each on cores of its own.
    `load_seconds` is the time the runtime took to load the file, its import excluded
    (but for eager, where torch imports its exporter, over a second of it, when it first loads), and
    to compile it for the sizes it has met so far, where it is one that compiles.
    """

    load_seconds: float
    pid: int

    def __init__(self, artifact: Artifact, *, timeout: float = 120.0, place: int = 0) -> None:
        if timeout <= 0:
            raise InvalidInput(f"timeout is {timeout}; use a number of seconds above 0")
        self.artifact = artifact
        self._timeout = timeout
        self._lock = threading.Lock()
        self._hung = False
        self.load_seconds = 0.0
        threads, cores = _threads_and_cores(artifact.options.threads, place)
        self._process = _start(threads)
        self.pid = self._process.pid
        self._finalizer = weakref.finalize(self, _end, self._process)
        self._stderr: deque[str] = deque(maxlen=_STDERR_KEPT)
        self._drain = threading.Thread(
            target=_drain, args=(self._process.stderr, self._stderr), daemon=True
        )
        self._drain.start()
        request = {
            "do": "load",
            "folder": str(Path(artifact.folder).resolve()),
            "artifact": artifact.to_json(),
            "threads": threads,
            "cores": cores,
        }
        try:
            self.load_seconds += float(self._ask(request)[0]["seconds"])
        except BaseException:
            self.close()
            raise

    def prepare(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Have done now what is done once for inputs of these sizes: inductor compiles.

        The other requests do it, too, where it is not done yet, before they start their clock.
        """
        self._ask({"do": "prepare"}, check_inputs(self.artifact.inputs, inputs))

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """Flat outputs in the artifact's order. Raises `InvalidInput` or `RuntimeFailed`."""
        return self._ask({"do": "run"}, check_inputs(self.artifact.inputs, inputs))[1]

    def time(
        self, inputs: Mapping[str, np.ndarray[Any, Any]], *, repeats: int, warmup: int = 0
    ) -> np.ndarray[Any, Any]:
        """Seconds of each of `repeats` runs, after `warmup` untimed ones: float64 [repeats]."""
        spans = self.spans(inputs, repeats=repeats, warmup=warmup)
        seconds: np.ndarray[Any, Any] = spans[:, 1] - spans[:, 0]
        return seconds

    def spans(
        self,
        inputs: Mapping[str, np.ndarray[Any, Any]],
        *,
        repeats: int,
        warmup: int = 0,
        at: float | None = None,
    ) -> np.ndarray[Any, Any]:
        """When each run began and ended, on `time.perf_counter`: float64 [repeats, 2].

        That clock is the same in all processes of a system: workers told to begin `at` the same
        moment do so together, but for one that gets its inputs only later.
        """
        if repeats < 1 or warmup < 0:
            raise InvalidInput(f"repeats is {repeats}, warmup {warmup}; use repeats >= 1")
        request = {"do": "time", "repeats": repeats, "warmup": warmup, "at": at}
        return self._ask(request, check_inputs(self.artifact.inputs, inputs))[1][0]

    def count(self, inputs: Mapping[str, np.ndarray[Any, Any]], *, repeats: int = 10) -> Counts:
        """The runtime's own counters over `repeats` runs, in turns with as many runs without them.

        Raises `RuntimeFailed` "refused" where the runtime has no counters here.
        """
        if repeats < 1:
            raise InvalidInput(f"repeats is {repeats}; use repeats >= 1")
        request = {"do": "count", "repeats": repeats}
        header, _ = self._ask(request, check_inputs(self.artifact.inputs, inputs))
        return Counts.from_json(header["counts"])

    def op_times(
        self, inputs: Mapping[str, np.ndarray[Any, Any]], *, repeats: int = 10
    ) -> tuple[OpTime, ...]:
        """The kernels of `count` alone: mean seconds per run of each."""
        return self.count(inputs, repeats=repeats).times

    def memory_bytes(self) -> int:
        """Peak resident memory of the child so far, interpreter and runtime included.

        0 where the system does not tell (Windows).
        """
        return int(self._ask({"do": "memory"})[0]["bytes"])

    def close(self) -> None:
        """End the child. Safe to call twice."""
        self._finalizer()
        self._drain.join(timeout=1.0)

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(
        self, request: dict[str, Json], arrays: Sequence[np.ndarray[Any, Any]] = ()
    ) -> tuple[dict[str, Json], list[np.ndarray[Any, Any]]]:
        if not self._finalizer.alive:
            raise InvalidInput("this worker is closed; start another one")
        with self._lock:
            try:
                header, results = self._exchange(request, arrays)
            except (EOFError, OSError, ValueError) as error:
                raise self._failure(request["do"], error) from None
            except BaseException:
                # Interrupted between a request and its answer: the next answer would be this one.
                self._finalizer()
                raise
        if "error" in header:
            message = f"{self._label()}: {header['message']}"
            if header["error"] in _RAISED_AS:
                raise _RAISED_AS[header["error"]](message)
            raise RuntimeFailed(message, "refused")
        self.load_seconds += header.get("prepared", 0.0)
        return header, results

    def _exchange(
        self, request: dict[str, Json], arrays: Sequence[np.ndarray[Any, Any]]
    ) -> tuple[dict[str, Json], list[np.ndarray[Any, Any]]]:
        with self._watched():
            send(cast(BinaryIO, self._process.stdin), request, arrays)
        while True:
            with self._watched():
                header, results = receive(cast(BinaryIO, self._process.stdout))
            if "done" in header:
                return header, results

    @contextlib.contextmanager
    def _watched(self) -> Any:
        timer = threading.Timer(self._timeout, self._give_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        self._hung = True
        _kill(self._process)

    def _failure(self, doing: str, error: Exception) -> RuntimeFailed:
        self.close()
        during = "loading" if doing == "load" else "running"
        if self._hung:
            return RuntimeFailed(
                f"{self._label()} hung while {during}: no sign of life for {self._timeout:g} s"
                f"{self._last_words()}",
                "hung",
            )
        how = _exit_text(self._process.returncode)
        return RuntimeFailed(
            f"{self._label()} crashed while {during}: {how}{self._last_words()}", "crashed"
        )

    def _label(self) -> str:
        return f"{self.artifact.runtime} with {self.artifact.folder / self.artifact.files[0]}"

    def _last_words(self) -> str:
        lines = list(self._stderr)[-_STDERR_SHOWN:]
        return "\n  " + "\n  ".join(lines) if lines else ""


def _threads_and_cores(threads: int | None, place: int) -> tuple[int, list[int] | None]:
    """How many threads, and the cores to pin them to (None: leave as it is)."""
    if not hasattr(os, "sched_getaffinity"):
        return threads or os.cpu_count() or 1, None
    usable = sorted(os.sched_getaffinity(0))
    if place and (threads is None or (place + 1) * threads > len(usable)):
        raise InvalidInput(
            f"place {place} with {threads or 'all'} threads: this process may use {len(usable)} "
            "cores, and each worker has some of its own"
        )
    if threads is None or threads >= len(usable):
        return threads or len(usable), None
    return threads, usable[place * threads : (place + 1) * threads]


def _start(threads: int) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH")
    environment = {
        **os.environ,
        **dict.fromkeys(_THREAD_VARIABLES, str(threads)),
        "PYTHONPATH": os.pathsep.join([root, inherited] if inherited else [root]),
        "PYTHONIOENCODING": "utf-8",
    }
    # -P: a file called numpy.py in the user's working directory is not to be imported.
    command = [sys.executable, "-P", "-X", "faulthandler", "-m", "burnish.bundle._worker"]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,  # Ctrl-C is for the parent to answer
    )


def _drain(stream: IO[bytes], lines: deque[str]) -> None:
    with stream, contextlib.suppress(ValueError, OSError):
        for line in stream:
            lines.append(line.decode("utf-8", "replace").rstrip())


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The child leads a group: whatever its runtime has started goes with it."""
    if os.name == "posix" and process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def _end(process: subprocess.Popen[bytes]) -> None:
    _kill(process)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def _exit_text(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            return f"killed by signal {-code}"
        why = " (the system does so when memory runs out)" if name == "SIGKILL" else ""
        return f"killed by {name}{why}"
    return f"exit code {code}"

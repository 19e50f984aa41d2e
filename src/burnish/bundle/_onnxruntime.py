"""ONNX files in onnxruntime.

One operator at a time, `threads` threads in it. The pool's threads stop spinning when a run ends
(`session.force_spinning_stop`): a session that is loaded but idle must not eat the cores of the
one raced against it. Measured on two cores, in the 100 ms after a run: 38 ms of CPU without the
setting, 0.02 ms with it (OpenVINO: 0.5 ms). Within a run they spin as usual.

Times per kernel come from the profile of a second session, because profiling slows a session down
for good. It also saves the graph as onnxruntime rewrote it, from which `_onnx_graph` tells what
each kernel is made of. The profile's clock is cut to whole microseconds; to each reading half of
one is added, which is what was cut off on average, and what recording itself adds to a kernel is
measured (`_onnx_recording`) and taken off. A kernel that runs others (a loop, a branch) is counted
without them.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from burnish.bundle._artifact import Artifact, OpTime
from burnish.bundle._counts import middle_half
from burnish.bundle._onnx_graph import Made, made_of, read_graph
from burnish.bundle._onnx_recording import CUT_OFF, recording_seconds
from burnish.errors import Unsupported

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_ERRORS_ONLY = 3
_OPTIMIZED = "optimized.onnx"
_KERNEL, _RUN = "_kernel_time", "model_run"  # events of a profile: a kernel has run, a model has
_RUN_OTHERS = frozenset({"If", "Loop", "Scan", "SequenceMap"})


class OnnxSession:
    """See `Session`. Inputs are matched by name, outputs by position."""

    def __init__(self, artifact: Artifact, threads: int) -> None:
        self._artifact = artifact
        self._threads = threads
        self._file = artifact.folder / artifact.files[0]
        self._names = [port.name for port in artifact.inputs]
        self._session = self._open(None)
        found = [port.name for port in self._session.get_inputs()]
        if sorted(found) != sorted(self._names):
            raise Unsupported(
                f"{artifact.files[0]} takes the inputs {found}, the artifact says {self._names}"
            )
        outputs = [port.name for port in self._session.get_outputs()]
        if len(outputs) != len(artifact.outputs):
            raise Unsupported(
                f"{artifact.files[0]} gives {len(outputs)} outputs, "
                f"the artifact says {len(artifact.outputs)}"
            )

    def _open(self, profile: Path | None) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = _ERRORS_ONLY
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile / "profile")
            options.optimized_model_filepath = str(profile / _OPTIMIZED)
        provider = _provider(self._artifact.options.device)
        session = onnxruntime.InferenceSession(str(self._file), options, providers=[provider])
        session.disable_fallback()
        return session

    def run(self, inputs: list[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        results = self._session.run(None, dict(zip(self._names, inputs, strict=True)))
        return [np.asarray(result) for result in results]

    @contextlib.contextmanager
    def counting(self, inputs: list[np.ndarray[Any, Any]]) -> Iterator[OnnxCounter]:
        feed = dict(zip(self._names, inputs, strict=True))
        with tempfile.TemporaryDirectory(prefix="burnish-") as folder:
            session = self._open(Path(folder))
            recording = recording_seconds(self._threads)
            yield OnnxCounter(session, feed, self._file, Path(folder) / _OPTIMIZED, recording)


class OnnxCounter:
    """See `Counter`."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        feed: dict[str, np.ndarray[Any, Any]],
        file: Path,
        optimized: Path,
        recording: float,
    ) -> None:
        self._session = session
        self._feed = feed
        self._recording = recording
        self._counted: list[bool] = []
        self._made = made_of(read_graph(file), read_graph(optimized))

    def run(self, *, counted: bool) -> None:
        self._session.run(None, self._feed)
        self._counted.append(counted)

    def times(self) -> list[OpTime]:
        events = json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8"))
        runs = kernel_seconds(events, self._recording)
        if len(runs) != len(self._counted):
            raise Unsupported(
                f"onnxruntime's profile holds {len(runs)} of {len(self._counted)} runs: it keeps a "
                "million events at most; count fewer runs"
            )
        kept = [run for run, counted in zip(runs, self._counted, strict=True) if counted]
        kernels = list(dict.fromkeys(kernel for run in kept for kernel in run))
        table = np.array([[run.get(kernel, 0.0) for kernel in kernels] for run in kept])
        return [
            OpTime(name, kind, float(seconds), made.members, made.feeds)
            for (name, kind), seconds in zip(kernels, middle_half(table), strict=True)
            for made in (self._made.get(name, Made(())),)
        ]


def _provider(device: str) -> str:
    listed = onnxruntime.get_available_providers()
    provider = _PROVIDERS.get(device)
    if provider not in listed:
        raise Unsupported(f"onnxruntime has no device {device!r} here; it lists {listed}")
    assert provider is not None
    return provider


def kernel_seconds(
    events: list[dict[str, Any]], recording: float = 0.0
) -> list[dict[tuple[str, str], float]]:
    """Seconds of each kernel (name, kind) in each run of a profile, in the order of runs.

    `recording` seconds are taken off each kernel.
    """
    runs: list[dict[tuple[str, str], float]] = []
    done: list[tuple[float, float]] = []  # start and length of this run's kernels, as they ended
    current: dict[tuple[str, str], float] = defaultdict(float)
    for event in events:
        if event.get("cat") == "Session" and event["name"] == _RUN:
            runs.append(dict(current))
            current.clear()
            done.clear()
        if event.get("cat") != "Node" or not event["name"].endswith(_KERNEL):
            continue
        kernel = event["name"].removesuffix(_KERNEL), event["args"]["op_name"]
        start, length = event["ts"], event["dur"] + CUT_OFF
        inside = 0.0
        if kernel[1] in _RUN_OTHERS:
            while done and done[-1][0] >= start:
                inside += done.pop()[1]
        done.append((start, length))
        current[kernel] += max(0.0, (length - inside) * 1e-6 - recording)
    return runs


def load(artifact: Artifact, threads: int) -> OnnxSession:
    """Load `artifact`. Raises `Unsupported` for a device or execution it does not have."""
    if artifact.options.execution != "float32":
        raise Unsupported(
            f"onnxruntime has no {artifact.options.execution} execution; use 'float32'"
        )
    return OnnxSession(artifact, threads)

"""ONNX files in onnxruntime.

One operator at a time, `threads` threads in it. The pool's threads stop spinning when a run ends
(`session.force_spinning_stop`): a session that is loaded but idle must not eat the cores of the
one raced against it. Measured on two cores, in the 100 ms after a run: 38 ms of CPU without the
setting, 0.02 ms with it (OpenVINO: 0.5 ms). Within a run they spin as usual.

Times per operator come from the profile of a second session, because profiling slows a session
down for good.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from burnish.bundle._artifact import Artifact, OpTime
from burnish.errors import Unsupported

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_WARMUP = 3
_ERRORS_ONLY = 3
_KERNEL = "_kernel_time"


class OnnxSession:
    """See `Session`. Inputs are matched by name, outputs by position."""

    def __init__(self, artifact: Artifact, threads: int) -> None:
        self._artifact = artifact
        self._threads = threads
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
        path = self._artifact.folder / self._artifact.files[0]
        provider = _provider(self._artifact.options.device)
        session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
        session.disable_fallback()
        return session

    def run(self, inputs: list[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        results = self._session.run(None, dict(zip(self._names, inputs, strict=True)))
        return [np.asarray(result) for result in results]

    def op_times(
        self, inputs: list[np.ndarray[Any, Any]], repeats: int, alive: Callable[[], None]
    ) -> list[OpTime]:
        feed = dict(zip(self._names, inputs, strict=True))
        with tempfile.TemporaryDirectory(prefix="burnish-") as folder:
            session = self._open(Path(folder))
            for _ in range(_WARMUP + repeats):
                session.run(None, feed)
                alive()
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        return _node_times(events, repeats)


def _provider(device: str) -> str:
    listed = onnxruntime.get_available_providers()
    provider = _PROVIDERS.get(device)
    if provider not in listed:
        raise Unsupported(f"onnxruntime has no device {device!r} here; it lists {listed}")
    assert provider is not None
    return provider


def _node_times(events: list[dict[str, Any]], repeats: int) -> list[OpTime]:
    # A node inside a loop has several events a run; the share of the warm-up runs is dropped.
    durations: dict[str, list[float]] = defaultdict(list)
    kinds: dict[str, str] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            name = event["name"].removesuffix(_KERNEL)
            durations[name].append(event["dur"] * 1e-6)
            kinds[name] = event["args"]["op_name"]
    times = []
    for name, values in durations.items():
        warm = len(values) * _WARMUP // (_WARMUP + repeats)
        times.append(OpTime(name, kinds[name], float(sum(values[warm:]) / repeats)))
    return times


def load(artifact: Artifact, threads: int) -> OnnxSession:
    """Load `artifact`. Raises `Unsupported` for a device or execution it does not have."""
    if artifact.options.execution != "float32":
        raise Unsupported(
            f"onnxruntime has no {artifact.options.execution} execution; use 'float32'"
        )
    return OnnxSession(artifact, threads)

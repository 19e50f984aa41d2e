"""OpenVINO IR (or ONNX) files in OpenVINO.

The precision hint is always set: left alone, OpenVINO computes a float32 model in bfloat16 where
the machine has the instructions, and a comparison would be of two different things. It is read
back after compiling, and a runtime that did not take it is refused. One stream, tuned for latency.
Times per operator come from a second, profiled compilation; operators that were fused away
(NOT_RUN) are dropped.

Importing openvino forks a process that reports the import to its makers over the network, unless
the package openvino_telemetry cannot be imported; then OpenVINO takes a stub of its own. So the
worker (a process that does nothing else) marks it as absent first: nothing is sent, and no forked
helper is left behind when the worker is killed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import openvino  # the loader has marked openvino_telemetry as absent before this line

from burnish.bundle._artifact import Artifact, OpTime
from burnish.errors import Unsupported

_HINTS = {"float32": openvino.Type.f32, "bfloat16": openvino.Type.bf16}
_WARMUP = 3


class OpenvinoSession:
    """See `Session`. Inputs are matched by name, outputs by position."""

    def __init__(self, artifact: Artifact, threads: int) -> None:
        self._artifact = artifact
        self._threads = threads
        self._core = openvino.Core()
        device = artifact.options.device.upper()
        listed = list(self._core.available_devices)
        if device not in listed and device.split(".")[0] not in listed:
            raise Unsupported(
                f"OpenVINO has no device {artifact.options.device!r} here; it lists {listed}"
            )
        self._device = device
        self._compiled = self._compile(profiled=False)
        self._request = self._compiled.create_infer_request()
        self._order = self._match()

    def _compile(self, *, profiled: bool) -> openvino.CompiledModel:
        hint = _HINTS[self._artifact.options.execution]
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": hint,
            "PERFORMANCE_HINT": "LATENCY",
            "PERF_COUNT": profiled,
        }
        if self._device == "CPU":
            settings |= {"INFERENCE_NUM_THREADS": self._threads, "NUM_STREAMS": 1}
        path = self._artifact.folder / self._artifact.files[0]
        compiled = self._core.compile_model(str(path), self._device, settings)
        taken = compiled.get_property("INFERENCE_PRECISION_HINT")
        if taken != hint:
            raise Unsupported(f"OpenVINO takes {taken} on this machine where {hint} was asked for")
        return compiled

    def _match(self) -> list[int]:
        names = [port.name for port in self._artifact.inputs]
        found = [sorted(port.get_names()) for port in self._compiled.inputs]
        order = []
        for index, aliases in enumerate(found):
            fitting = [names.index(alias) for alias in aliases if alias in names]
            if len(fitting) != 1:
                raise Unsupported(
                    f"input {index} of {self._artifact.files[0]} is called {aliases}, "
                    f"the artifact says {names}"
                )
            order.append(fitting[0])
        if sorted(order) != list(range(len(names))):
            raise Unsupported(
                f"{self._artifact.files[0]} takes the inputs {found}, the artifact says {names}"
            )
        if len(self._compiled.outputs) != len(self._artifact.outputs):
            raise Unsupported(
                f"{self._artifact.files[0]} gives {len(self._compiled.outputs)} outputs, "
                f"the artifact says {len(self._artifact.outputs)}"
            )
        return order

    def run(self, inputs: list[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        feed = [inputs[index] for index in self._order]
        results = self._request.infer(feed, share_inputs=True, share_outputs=True)
        return [results[index] for index in range(len(results))]

    def op_times(
        self, inputs: list[np.ndarray[Any, Any]], repeats: int, alive: Callable[[], None]
    ) -> list[OpTime]:
        request = self._compile(profiled=True).create_infer_request()
        feed = [inputs[index] for index in self._order]
        for _ in range(_WARMUP):
            request.infer(feed, share_inputs=True)
            alive()
        seconds: dict[tuple[str, str], float] = defaultdict(float)
        for _ in range(repeats):
            request.infer(feed, share_inputs=True)
            alive()
            for item in request.get_profiling_info():
                if "NOT_RUN" not in str(item.status):
                    key = (item.node_name, f"{item.node_type}:{item.exec_type}")
                    seconds[key] += item.real_time.total_seconds()
        return [OpTime(name, kind, total / repeats) for (name, kind), total in seconds.items()]


def load(artifact: Artifact, threads: int) -> OpenvinoSession:
    """Load `artifact`. Raises `Unsupported` for a device or precision it does not have."""
    return OpenvinoSession(artifact, threads)

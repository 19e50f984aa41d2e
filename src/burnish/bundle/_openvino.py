"""OpenVINO IR (or ONNX) files in OpenVINO.

The precision hint is always set: left alone, OpenVINO computes a float32 model in bfloat16 where
the machine has the instructions, and a comparison would be of two different things. It is read
back after compiling, and a runtime that did not take it is refused. One stream, tuned for latency.

A model with a free batch is compiled for the sizes it is called with, when it meets them
(`prepare`): where sizes are free, OpenVINO works out every kernel's shapes in every run, which
takes 5 to 16 % of it on networks of 0.6 to 18 ms (docs/log.md). The first four sizes are compiled
for; any others share one compilation with free sizes, so that texts of every length do not fill
the memory. A file with an int8 LSTM keeps its free sizes: where they are fixed, OpenVINO (2026.4)
folds the first states into float constants and computes the whole LSTM in float, in up to 2.3 times
the time.

Times per kernel come from a second, profiled compilation, whose graph also tells which nodes of the
file each kernel was made of. OpenVINO's counters only give the mean of all runs so far, cut to
whole microseconds twice, run by run and as a mean: what the warm-up took is subtracted, and half a
microsecond added for each cut. A kernel of less than one microsecond has no time there, and is
listed with none where OpenVINO's own graph holds it. Neither the runs that begin a turn nor those
that were interrupted can be left out: on a busy machine the sum is above the median run.

Importing openvino forks a process that reports the import to its makers over the network, unless
the package openvino_telemetry cannot be imported; then OpenVINO takes a stub of its own. So the
worker (a process that does nothing else) marks it as absent first: nothing is sent, and no forked
helper is left behind when the worker is killed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import openvino  # the loader has marked openvino_telemetry as absent before this line

from burnish.bundle._artifact import Artifact, OpTime
from burnish.errors import Unsupported

Sizes = tuple[tuple[int, ...], ...]

_HINTS = {"float32": openvino.Type.f32, "bfloat16": openvino.Type.bf16}
_CUT_OFF = 1e-6  # seconds
_ORIGINALS = "originalLayersNames"
_OWN_SIZES = 4  # that are compiled for
_ANY: Sizes = ()
_INT8_LSTM = {"LSTMSequence", "FakeQuantize"}
_NO_KERNEL = ("undef", "unknown")  # what has no implementation: inputs, views


class OpenvinoSession:
    """See `Preparing`. Inputs are matched by name, outputs by position."""

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
        model = self._read()
        self._order = self._match(model)
        kinds = {node.get_type_name() for node in model.get_ops()}
        self._own_sizes = 0 if kinds >= _INT8_LSTM else _OWN_SIZES
        self._requests: dict[Sizes, openvino.InferRequest] = {}

    def _read(self) -> openvino.Model:
        return self._core.read_model(str(self._artifact.folder / self._artifact.files[0]))

    def prepare(self, inputs: list[np.ndarray[Any, Any]], alive: Callable[[], None]) -> None:
        """Compile for the sizes of `inputs`, or once for all that come late."""
        sizes = _sizes(inputs)
        if sizes in self._requests or _ANY in self._requests:
            return
        own = sizes if len(self._requests) < self._own_sizes else _ANY
        alive()
        self._requests[own] = self._compile(own, profiled=False).create_infer_request()

    def _compile(self, sizes: Sizes, *, profiled: bool) -> openvino.CompiledModel:
        hint = _HINTS[self._artifact.options.execution]
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": hint,
            "PERFORMANCE_HINT": "LATENCY",
            "PERF_COUNT": profiled,
        }
        if self._device == "CPU":
            settings |= {"INFERENCE_NUM_THREADS": self._threads, "NUM_STREAMS": 1}
        model = self._read()
        if sizes != _ANY:
            model.reshape({port: list(sizes[at]) for port, at in enumerate(self._order)})
        compiled = self._core.compile_model(model, self._device, settings)
        taken = compiled.get_property("INFERENCE_PRECISION_HINT")
        if taken != hint:
            raise Unsupported(f"OpenVINO takes {taken} on this machine where {hint} was asked for")
        return compiled

    def _match(self, model: openvino.Model) -> list[int]:
        names = [port.name for port in self._artifact.inputs]
        found = [sorted(port.get_names()) for port in model.inputs]
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
        if len(model.outputs) != len(self._artifact.outputs):
            raise Unsupported(
                f"{self._artifact.files[0]} gives {len(model.outputs)} outputs, "
                f"the artifact says {len(self._artifact.outputs)}"
            )
        return order

    def run(self, inputs: list[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        request = self._requests.get(_sizes(inputs)) or self._requests[_ANY]
        feed = [inputs[index] for index in self._order]
        results = request.infer(feed, share_inputs=True, share_outputs=True)
        return [results[index] for index in range(len(results))]

    @contextlib.contextmanager
    def counting(self, inputs: list[np.ndarray[Any, Any]]) -> Iterator[OpenvinoCounter]:
        feed = [inputs[index] for index in self._order]
        sizes = _sizes(inputs)
        own = sizes if sizes in self._requests else _ANY
        yield OpenvinoCounter(self._compile(own, profiled=True), feed, self._read())


class OpenvinoCounter:
    """See `Counter`."""

    def __init__(
        self,
        compiled: openvino.CompiledModel,
        feed: list[np.ndarray[Any, Any]],
        file: openvino.Model,
    ) -> None:
        self._compiled = compiled
        self._file = file
        self._request = compiled.create_infer_request()
        self._feed = feed
        self._num_runs = 0
        self._num_before = 0  # runs of the warm-up
        self._before: list[float] = []

    def run(self, *, counted: bool) -> None:
        if counted and self._num_before == 0:
            self._num_before, self._before = self._num_runs, self._totals()
        self._request.infer(self._feed, share_inputs=True, share_outputs=True)
        self._num_runs += 1

    def _totals(self) -> list[float]:
        """Seconds of each kernel in all runs so far."""
        means = [item.real_time.total_seconds() for item in self._request.get_profiling_info()]
        return [self._num_runs * (mean + _CUT_OFF) if mean > 0 else 0.0 for mean in means]

    def times(self) -> list[OpTime]:
        made = _made(self._compiled.get_runtime_model(), self._file)
        found = []
        for item, before, after in zip(
            self._request.get_profiling_info(), self._before, self._totals(), strict=True
        ):
            here = item.node_name in made and not item.exec_type.startswith(_NO_KERNEL)
            if after == 0.0 and not here:
                continue
            seconds = max(0.0, after - before) / (self._num_runs - self._num_before)
            kind = f"{item.node_type}:{item.exec_type}"
            found.append(OpTime(item.node_name, kind, seconds, *made.get(item.node_name, ((), ()))))
        return found


def _sizes(inputs: list[np.ndarray[Any, Any]]) -> Sizes:
    return tuple(array.shape for array in inputs)


def _made(
    model: openvino.Model, file: openvino.Model
) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """For each kernel by name: the nodes of the file that it computes, and those that it moves data
    for where it computes none."""
    nodes = model.get_ordered_ops()
    names = frozenset(node.get_friendly_name() for node in file.get_ops())
    members = {node.get_friendly_name(): _members(node, names) for node in nodes}
    return {
        name: (found, () if found else _fed(node, members))
        for node in nodes
        for name in (node.get_friendly_name(),)
        for found in (members[name],)
    }


def _members(node: openvino.Node, names: frozenset[str]) -> tuple[str, ...]:
    """The nodes of the file that a kernel was made of, by what OpenVINO notes about it and calls
    it; where it takes a node apart it puts a slash and a word behind the node's name."""
    info = node.get_rt_info()
    noted = str(info[_ORIGINALS].astype(str)).split(",") if _ORIGINALS in info else []
    found: dict[str, None] = {}
    for name in (*noted, node.get_friendly_name()):
        while name and name not in names:
            name = name.rpartition("/")[0]
        if name:
            found[name] = None
    return tuple(found)


def _fed(node: openvino.Node, members: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Of a kernel that computes nothing: what the first kernels downstream compute."""
    todo, found = [node], dict[str, None]()
    seen = {node.get_friendly_name()}
    while todo:
        for output in todo.pop().outputs():
            for target in output.get_target_inputs():
                reader = target.get_node()
                name = reader.get_friendly_name()
                if members[name]:
                    found |= dict.fromkeys(members[name])
                elif name not in seen:
                    seen.add(name)
                    todo.append(reader)
    return tuple(found)


def load(artifact: Artifact, threads: int) -> OpenvinoSession:
    """Load `artifact`. Raises `Unsupported` for a device or precision it does not have."""
    return OpenvinoSession(artifact, threads)

"""What onnxruntime's profile adds to the kernels it times.

A kernel's record ends after its arguments and shapes have been written into it, so some
microseconds of every reading are recording. They are measured here: a chain of negations of one
number, which take next to nothing, runs with a profile and without; what the profile says of a
kernel beyond what a kernel takes is recording. In a network of kernels of 10 us it is a third.

Left out: what recording costs between kernels (no reading holds it), and that longer argument lists
take longer to write.
"""

from __future__ import annotations

import functools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from burnish.bundle._counts import middle_half

CUT_OFF = 0.5  # microseconds that a reading lacks on average: the clock is cut to whole ones
_LENGTH, _RUNS, _WARMUP = 64, 24, 4
# onnx.proto: the fields that a chain needs.
_IR_VERSION, _OPSET = 8, 17
_FLOAT = 1


@functools.lru_cache
def recording_seconds(threads: int) -> float:
    """Seconds that recording adds to one kernel, in this process, at that number of threads."""
    feed = {"v0": np.ones(1, np.float32)}
    with tempfile.TemporaryDirectory(prefix="burnish-") as folder:
        plain, recorded = (_open(threads, prefix) for prefix in (None, f"{folder}/profile"))
        seconds = []
        for _ in range(_WARMUP + _RUNS):
            start = time.perf_counter()
            plain.run(None, feed)
            seconds.append(time.perf_counter() - start)
            recorded.run(None, feed)
        events = json.loads(Path(recorded.end_profiling()).read_text(encoding="utf-8"))
    told = [event["dur"] for event in events if event["name"].endswith("_kernel_time")]
    runs = np.array(told, dtype=np.float64).reshape(-1, _LENGTH)[_WARMUP:]
    kernel = float(np.median(seconds[_WARMUP:])) / _LENGTH
    return max(0.0, (float(middle_half(runs).mean()) + CUT_OFF) * 1e-6 - kernel)


def _open(threads: int, prefix: str | None) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Or two negations would be none.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = prefix
    return onnxruntime.InferenceSession(_chain(), options, providers=["CPUExecutionProvider"])


def _chain() -> bytes:
    """An ONNX file: negations of one number, written without the package onnx."""
    nodes = b"".join(
        _part(1, _part(1, f"v{i}") + _part(2, f"v{i + 1}") + _part(3, f"n{i}") + _part(4, "Neg"))
        for i in range(_LENGTH)
    )
    graph = nodes + _part(2, "chain") + _part(11, _value("v0")) + _part(12, _value(f"v{_LENGTH}"))
    opset = _part(1, "") + _number(2, _OPSET)
    return _number(1, _IR_VERSION) + _part(8, opset) + _part(7, graph)


def _value(name: str) -> bytes:
    """The declaration of a value: a float tensor of one number."""
    shape = _part(1, _number(1, 1))
    return _part(1, name) + _part(2, _part(1, _number(1, _FLOAT) + _part(2, shape)))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _part(field: int, value: bytes | str) -> bytes:
    held = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(held)) + held


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes((*found, value))

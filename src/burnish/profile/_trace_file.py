"""A profile in the format of chrome://tracing and Perfetto.

Each runtime is a process of one thread, in which the operators stand one behind the other in the
order they run, each as long as its mean time; kernels that belong to no operator follow in a thread
of their own. The living activations are a counter beside the fastest runtime's operators.

Left out: gaps between operators. Runtimes tell how long a kernel took, not always when.

Format: Trace Event Format (Google, 2016): complete events "X", counters "C", metadata "M".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from burnish.profile._memory import Memory
from burnish.profile._operator import Operator
from burnish.profile._run import Run

_MICRO = 1e6
_OPERATORS, _REST = 1, 2


def chrome_trace(
    operators: Sequence[Operator], runs: Sequence[Run], memory: Memory
) -> dict[str, Any]:
    """The trace as plain JSON; times in microseconds."""
    events: list[dict[str, Any]] = []
    timed = [run for run in runs if run.attributed_ms is not None and run.latency is not None]
    fastest = min(timed, key=lambda run: run.latency.p50_ms if run.latency else 0.0, default=None)
    alive = dict(memory.timeline)
    for process, run in enumerate(timed, start=1):
        events += _names(process, f"{run.name} ({run.precision})")
        now = 0.0
        for item in operators:
            if run is fastest and item.name in alive:
                events.append(_counter(process, now, alive[item.name]))
            seconds = item.seconds.get(run.name)
            if seconds:
                events.append(_complete(process, _OPERATORS, item, now, seconds * _MICRO))
                now += seconds * _MICRO
        for kernel in run.rest:
            length = kernel.ms * 1e3
            events.append(
                {
                    "ph": "X",
                    "name": kernel.name,
                    "cat": kernel.kind,
                    "pid": process,
                    "tid": _REST,
                    "ts": now,
                    "dur": length,
                }
            )
            now += length
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _names(process: int, name: str) -> list[dict[str, Any]]:
    def meta(kind: str, thread: int, value: str) -> dict[str, Any]:
        return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": value}}

    return [
        meta("process_name", 0, name),
        meta("thread_name", _OPERATORS, "operators"),
        meta("thread_name", _REST, "kernels of no operator"),
    ]


def _counter(process: int, now: float, size: int) -> dict[str, Any]:
    return {"ph": "C", "name": "activations", "pid": process, "ts": now, "args": {"bytes": size}}


def _complete(
    process: int, thread: int, item: Operator, now: float, length: float
) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": item.name,
        "cat": item.kind,
        "pid": process,
        "tid": thread,
        "ts": now,
        "dur": length,
        "args": {
            "module": item.module,
            "macs": item.macs,
            "bytes": item.num_bytes,
            "intensity": item.intensity,
        },
    }

"""Reading operators that stand side by side: what each takes, by a worker's own counters.

The counters are read several times and the median is taken. Left out: what belongs to no operator
(copies and layout changes in front), which is the graph's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from burnish.graph import Traced, operator_names
from burnish.profile._latency_graph import branch_of, inputs_of
from burnish.runtimes import attribute

_READINGS, _RUNS = 3, 12
_LEAST = 5e-8  # seconds: what a runtime optimizes away, no counter can tell from this


def call_names(model: Traced) -> list[str]:
    """The names of a graph's operators, in its order."""
    return [
        name
        for node, name in operator_names(model.graph_module).items()
        if node.op == "call_function"
    ]


def branch_seconds(worker: Any, model: Traced, num: int, batch: int) -> list[float]:
    """Seconds of each of `num` operators side by side."""
    inputs = inputs_of(model, batch)
    names = call_names(model)
    readings = np.zeros((_READINGS, num))
    for reading in readings:
        times = worker.op_times(inputs, repeats=_RUNS)
        own = [item for item in times if item.members or not item.feeds]
        given = attribute(own, names)
        for name, seconds in given.seconds.items():
            branch = branch_of(name)
            if branch is not None:
                reading[branch] += seconds
    return [max(_LEAST, seconds) for seconds in np.median(readings, axis=0).tolist()]

"""An int8 artifact of a tiny model, run once, with all that the tests want to look at.

The tolerance between an artifact and the graph that simulates it is in *steps*: 1/255 of the range
of the float model's output, which is the scale that output has, or would have, in uint8. Both
compute the same integers from the same integers, but they sum in another order, and a sum that lies
between two integers may be rounded to either. Such a flip is one step of a value inside, and moves
the output by a weight's share of that.
"""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from burnish.bundle import OpTime
from burnish.graph import Traced, flatten, flatten_call
from burnish.quantize import Coverage, QuantizeStatic, Statistics, calibrate, coverage
from burnish.runtimes import attribute, export, load
from burnish.testing import Tiny
from tests import once

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Built:
    """Outputs of the float model, of the simulated graph and of the artifact, on seen data."""

    floats: tuple[Array, ...]
    simulated: tuple[Array, ...]
    given: tuple[Array, ...]
    coverage: tuple[Coverage, ...]
    operators: tuple[OpTime, ...]

    def kernels(self, name: str) -> list[OpTime]:
        """The runtime's kernels that compute an operator, alone or with others."""
        computing = [op for op in self.operators if op.members]
        return [op for op in computing if attribute([op], [name]).seconds]

    def kinds(self, name: str) -> list[str]:
        """The kinds of those kernels."""
        return [op.kind for op in self.kernels(name)]

    def in_int8(self, name: str) -> bool:
        """Whether a kernel computes it on integers.

        OpenVINO joins a chain of linear layers, activations and quantizers into one kernel, named
        after what goes into the chain: the quantizers inside tell.
        """
        return any(
            is_int8(op.kind)
            or (op.kind.startswith("Subgraph") and any("node_quantize" in m for m in op.members))
            for op in self.kernels(name)
        )


def is_int8(kind: str) -> bool:
    """Whether a node of that kind computes on integers, by the runtimes' own words."""
    onnxruntime = kind.startswith(("QLinear", "QGemm", "MatMulIntegerToFloat"))
    onnxruntime = onnxruntime or kind == "DynamicQuantizeLSTM"
    return onnxruntime or kind.lower().endswith(("_i8", "_u8"))


@functools.cache
def prepared(tiny: Tiny) -> tuple[Traced, Traced, Statistics]:
    """The traced model, the same with its batch-norms folded, and its statistics."""
    traced, folded = once.traced(tiny), once.folded(tiny)
    calls = [tiny.inputs(4, seed=seed) for seed in range(3)]
    return traced, folded, calibrate(folded, [flatten_call(c.args, c.kwargs) for c in calls])


@functools.cache
def built(tiny: Tiny, runtime: str, exclude: tuple[str, ...] = ()) -> Built:
    """Quantize, export, load, run."""
    traced, folded, statistics = prepared(tiny)
    step = QuantizeStatic(runtime, exclude=exclude)
    choices = step.choose_from(folded, statistics)
    graph = step.rewrite(folded, choices)
    assert isinstance(graph, Traced)
    inputs = tiny.inputs(4, seed=1)
    tensors = flatten_call(inputs.args, inputs.kwargs)
    arrays = {slot.name: t.numpy() for slot, t in zip(traced.inputs, tensors, strict=True)}
    with tempfile.TemporaryDirectory() as folder:
        artifact = export(graph, runtime, Path(folder), precision="int8")
        with load(artifact) as worker:
            given = tuple(np.array(array) for array in worker.run(arrays))
            operators = worker.op_times(arrays, repeats=1)
    floats, simulated = (
        tuple(tensor.numpy() for tensor in flatten(tiny.call(model, inputs))[0])
        for model in (traced, graph)
    )
    return Built(floats, simulated, given, coverage(choices), operators)

"""PyTorch programs, run as torch runs them: the baseline everything else is compared with.

`_program` says what the file is and how it is read safely. Runs are under `torch.inference_mode`,
with the artifact's threads.

Times per operator come from the very code that runs: the graph is written out once more with the
clock read after every call, so that an operator's time is what torch spends from one call to the
next: its weights looked up, dispatch, kernel, freeing what nobody reads any more. What the clock
costs is left in, a tenth of a microsecond a call. Which kernels an operator came down to is asked
of torch's profiler, in one more run; those times are not used, since the profiler costs more than a
small operator does.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from burnish.bundle._artifact import Artifact, OpTime
from burnish.bundle._counts import middle_half
from burnish.bundle._program import Program, use_threads
from burnish.errors import Unsupported

_CALLS = ("call_function", "call_module")


class EagerSession:
    """See `Session`. Inputs are the program's flat user inputs in order."""

    def __init__(self, artifact: Artifact, threads: int) -> None:
        import torch

        self._torch = torch
        self._program = Program(artifact)
        use_threads(threads)

    def run(self, inputs: list[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        with self._torch.inference_mode():
            return self._program.arrays(self._program.module(*self._program.leaves(inputs)))

    @contextlib.contextmanager
    def counting(self, inputs: list[np.ndarray[Any, Any]]) -> Iterator[EagerCounter]:
        yield EagerCounter(self._program, inputs)


class EagerCounter:
    """See `Counter`."""

    def __init__(self, program: Program, inputs: list[np.ndarray[Any, Any]]) -> None:
        self._program = program
        self._inputs = inputs
        self._module = _with_clock(program.module)
        self._stamps: list[tuple[float, ...]] = []

    def run(self, *, counted: bool) -> None:
        import torch

        with torch.inference_mode():
            results, stamps = self._module(*self._program.leaves(self._inputs))
            self._program.arrays(results)
        if counted:
            self._stamps.append(stamps)

    def times(self) -> list[OpTime]:
        nodes = [node for node in self._program.module.graph.nodes if node.op in _CALLS]
        kernels = self._kernels()
        names = self._program.operators
        seconds = middle_half(np.diff(np.array(self._stamps), axis=1))
        return [
            OpTime(
                node.name,
                ":".join([str(node.target), *kernels.get(node.name, ())]),
                float(taken),
                (names[node.name],) if node.name in names else (),
            )
            for node, taken in zip(nodes, seconds, strict=True)
        ]

    def _kernels(self) -> dict[str, tuple[str, ...]]:
        """For each node the ATen operator, below its own, that spent most time; of one run."""
        import torch

        class Marked(torch.fx.Interpreter):
            def run_node(self, node: Any) -> Any:
                with torch.profiler.record_function(node.name):
                    return super().run_node(node)

        with torch.inference_mode(), torch.autograd.profiler.profile(use_cpu=True) as profile:
            leaves = self._program.leaves(self._inputs)
            Marked(self._program.module).run(*leaves, enable_io_processing=False)
        marks = {node.name for node in self._program.module.graph.nodes}
        return {
            event.name: (max(below, key=lambda child: child.self_cpu_time_total).name,)
            for event in profile.function_events
            if event.name in marks and (below := list(_leaves(event)))
        }


def _leaves(event: Any) -> Iterator[Any]:
    for child in event.cpu_children:
        yield child
        yield from _leaves(child)


def _with_clock(module: Any) -> Any:
    """The module with its clock's readings as a second result: at the start, and after each call.

    Weights are looked up where they are first read, not all at the start, so that doing so counts
    for the operator that wants them.
    """
    import torch

    graph, copies, stamps = torch.fx.Graph(), dict[Any, Any](), list[Any]()

    def copied(node: Any) -> Any:
        if node not in copies:
            copies[node] = graph.node_copy(node, copied)
        return copies[node]

    for node in module.graph.nodes:
        if node.op == "placeholder":
            copied(node)
        elif node.op == "output":
            graph.output((torch.fx.map_arg(node.args[0], copied), tuple(stamps)))
        elif node.op in _CALLS:
            stamps = stamps or [graph.call_function(time.perf_counter)]
            copied(node)
            stamps.append(graph.call_function(time.perf_counter))
    return torch.fx.GraphModule(module, graph)


def load(artifact: Artifact, threads: int) -> EagerSession:
    """Load `artifact`. Raises `Damaged` for an archive that is not safe, `Unsupported` for a
    device or execution torch does not have here."""
    if artifact.options.execution != "float32":
        raise Unsupported(f"eager has no {artifact.options.execution} execution; use 'float32'")
    return EagerSession(artifact, threads)

"""What each kernel of inductor's takes, and which operators of the program it computes.

What inductor compiles is a Python function, the wrapper, that calls one kernel after the other: its
own in C++, and the library's (convolutions, matrix products). To count, the program is lowered
once more with inductor's notes on (which nodes of the graph each kernel came from); the kernels
themselves are the same files as without. The wrapper's text, which names each noted kernel in the
line before its call, gets the clock read before and after that call. Where a noted kernel has no
call behind it, nothing is made up: `Unsupported`.

A kernel that is noted for nothing but what a convolution behind it is noted for, too, changes a
layout for that. A node that none is noted for (inductor notes a fused convolution under the name of
its activation, and a folded batch-norm not at all) is computed where its reader is.
"""

from __future__ import annotations

import ast
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from burnish.bundle._artifact import OpTime
from burnish.bundle._counts import middle_half
from burnish.bundle._program import Program
from burnish.errors import Unsupported

_NOTE = re.compile(r"\s*# \[Provenance debug handles\] (\S+)")
_NOTES = {"trace.provenance_tracking_level": 1}
_CLOCK = "_burnish_clock"


@dataclass(frozen=True)
class Kernel:
    """A kernel by its name, which ends in its number in the graph; see `OpTime` for the rest."""

    name: str
    members: tuple[str, ...]
    feeds: tuple[str, ...]


class Counted:
    """A program compiled with clocks between its kernels for the sizes of `leaves`."""

    def __init__(self, program: Program, leaves: list[Any]) -> None:
        import torch

        self._kernels: tuple[Kernel, ...] = ()
        self._readings: list[float] = []
        self._program = program
        self._call: Callable[..., Any] = torch.compile(
            program.module, fullgraph=True, dynamic=False, backend=self._compile
        )
        self._call(*leaves)

    def run(self, leaves: list[Any]) -> tuple[Any, list[float]]:
        """Run once; the results, and seconds of each kernel in the order they run."""
        self._readings.clear()
        results = self._call(*leaves)
        before, after = self._readings[::2], self._readings[1::2]
        return results, [end - start for start, end in zip(before, after, strict=True)]

    def times(self, runs: list[list[float]]) -> list[OpTime]:
        """Mean seconds of each kernel over `runs`."""
        seconds = middle_half(np.asarray(runs)).tolist()
        return [
            OpTime(one.name, _kind(one.name), taken, one.members, one.feeds)
            for one, taken in zip(self._kernels, seconds, strict=True)
        ]

    def _compile(self, graph: Any, inputs: list[Any]) -> Any:
        """The backend: inductor's own, with clocks in the wrapper it gives."""
        from torch._inductor.compile_fx import compile_fx, compile_fx_inner

        original = self._program.module.graph
        copied = dict(_same_calls(graph.graph, original))

        def inner(*args: Any, **kwargs: Any) -> Any:
            compiled: Any = compile_fx_inner(*args, **kwargs)
            source, called = with_clocks(compiled.source_code)
            noted = _noted(json.loads(compiled.inductor_provenance_mapping_str or "{}"), copied)
            nodes = [noted.get(name, frozenset()) for name in called]
            self._kernels = kernels(called, nodes, original.nodes, self._program.operators)
            compiled.current_callable = self._rebuilt(compiled.current_callable, source)
            return compiled

        return compile_fx(graph, inputs, inner_compile=inner, config_patches=_NOTES)

    def _rebuilt(self, call: Any, source: str) -> Callable[..., Any]:
        """The wrapper anew from another text, with the constants of the old one."""
        old = getattr(call, "__func__", call).__globals__
        new = {"__name__": old["__name__"], _CLOCK: self._read_clock}
        exec(compile(source, f"{old.get('__file__', 'inductor')}, with clocks", "exec"), new)
        for name, value in old.items():
            if new.get(name) is None:
                new[name] = value
        rebuilt: Callable[..., Any] = new["call"]
        return rebuilt

    def _read_clock(self) -> None:
        self._readings.append(time.perf_counter())


def _kind(name: str) -> str:
    return name.rpartition(":")[0]


def with_clocks(source: str) -> tuple[str, list[str]]:
    """The wrapper with the clock read around each noted kernel's call, and those kernels in order.

    Raises `Unsupported` where a note has no call of its kernel behind it.
    """
    lines = source.splitlines()
    calls = sorted(
        (
            node
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Assign | ast.Expr) and isinstance(node.value, ast.Call)
        ),
        key=lambda node: node.lineno,
    )
    before: dict[int, str] = {}
    after: dict[int, str] = {}
    called = []
    for number, line in enumerate(lines, start=1):
        note = _NOTE.fullmatch(line)
        if note is None:
            continue
        name = note.group(1)
        behind = (node for node in calls if node.lineno > number)
        call = next((node for node in behind if f"{_kind(name)}(" in lines[node.lineno - 1]), None)
        if call is None or call.lineno in before:
            raise Unsupported(
                f"inductor's wrapper does not call the kernel {name} where it notes it: no times "
                "per kernel can be given"
            )
        reading = f"{' ' * call.col_offset}{_CLOCK}()"
        before[call.lineno] = after[call.end_lineno or call.lineno] = reading
        called.append(name)
    if not called:
        raise Unsupported("inductor made no kernel of this program: there is nothing to time")
    return "\n".join(_woven(lines, before, after)), called


def _woven(lines: list[str], before: dict[int, str], after: dict[int, str]) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        if number in before:
            yield before[number]
        yield line
        if number in after:
            yield after[number]


def kernels(
    called: Sequence[str],
    noted: Sequence[frozenset[str]],
    nodes: Sequence[Any],
    operators: dict[str, str],
) -> tuple[Kernel, ...]:
    """The kernels with what they compute and what they only change a layout for.

    Args:
        called: their names, in the order they are called.
        noted: for each the nodes inductor notes for it.
        nodes: of the program, in order.
        operators: what plans call nodes.
    """
    owner = {node: place for place, found in enumerate(noted) for node in found}
    for node in reversed(nodes):
        if node.op == "call_function" and node.name not in owner:
            reader = next((user for user in node.users if user.name in owner), None)
            if reader is not None:
                owner[node.name] = owner[reader.name]
    found = []
    for place, name in enumerate(called):
        mine = noted[place] | {node for node, kernel in owner.items() if kernel == place}
        named = tuple(operators[n.name] for n in nodes if n.name in mine and n.name in operators)
        fed = any(
            "convolution" in _kind(later) and "convolution" not in _kind(name) and mine <= theirs
            for later, theirs in zip(called[place + 1 :], noted[place + 1 :], strict=True)
        )
        found.append(Kernel(name, () if fed else named, named if fed else ()))
    return tuple(found)


def _noted(notes: dict[str, Any], copied: dict[str, str]) -> dict[str, frozenset[str]]:
    """The program's nodes noted for each kernel."""
    traced = notes.get("postToPre", {})
    return {
        kernel: frozenset(
            copied[old] for node in nodes for old in traced.get(node, ()) if old in copied
        )
        for kernel, nodes in notes.get("cppCodeToPost", {}).items()
    }


def _same_calls(traced: Any, original: Any) -> Iterator[tuple[str, str]]:
    """The names of torch.compile's copies of the program's nodes, with those of the nodes.

    It keeps the order of the calls, and leaves out those it can do while it traces (sizes).
    """
    nodes = iter([node for node in original.nodes if node.op == "call_function"])
    for copied in traced.nodes:
        if copied.op != "call_function":
            continue
        node = next((node for node in nodes if node.target is copied.target), None)
        if node is None:
            raise Unsupported(f"torch.compile calls {copied.target}, which the program does not")
        yield copied.name, node.name

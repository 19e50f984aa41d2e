"""Networks of other widths and depths as artifacts that are run: what a latency target rests on.

A variant of a model is what is left after some groups were narrowed and some blocks dropped. It is
made into the very artifact that is to ship, int8 where that is asked for, and raced against the
original; the runtime's counters say where its time goes.

Left out: quality, which no untrained variant has.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx

from burnish.auto._bench import Bench, Terms
from burnish.auto._console import Narrator
from burnish.auto._inputs import timing_inputs
from burnish.auto._width_model import Network, Seen
from burnish.bench import Race
from burnish.bundle import Artifact
from burnish.core import Choices
from burnish.goal import Goal
from burnish.graph import Traced, operator, operator_names, tensor_of
from burnish.prune import PruneTo, PruningSurvey
from burnish.quantize import QuantizeStatic, fold
from burnish.runtimes import attribute, export

NUM_COUNTS = 5
CALIBRATION_BATCHES = 2
Ids = np.ndarray[Any, np.dtype[np.int64]]
_VIEWS = frozenset({"view", "reshape", "flatten", "permute", "transpose", "unsqueeze", "squeeze"})


@dataclass(frozen=True, eq=False)
class Operator:
    """An operator of the graph: its family, the ids on the axes that are its widths, its block."""

    name: str
    family: tuple[str, ...]
    axes: tuple[Ids, ...]
    block: str | None


@dataclass(frozen=True, eq=False)
class Variant:
    """What was narrowed and dropped, and the artifact of what is left."""

    label: str
    removed: Mapping[str, Sequence[int]]
    dropped: tuple[str, ...]
    artifact: Artifact
    graph: Traced


@dataclass(eq=False)
class PrunedShop:
    """One model's survey, a runtime and a precision, a folder and a clock."""

    step: PruneTo
    found: PruningSurvey
    goal: Goal
    runtime: str
    precision: str
    folder: Path
    bench: Bench
    narrator: Narrator
    threads: int

    def __post_init__(self) -> None:
        self.traced = self.found.channels.traced
        self.operators = operators_of(self.found)
        batches = list(itertools.islice(self.goal.task.data("calibration"), CALIBRATION_BATCHES))
        task = dataclasses.replace(self.goal.task, calibration=batches)
        self._quick = dataclasses.replace(self.goal, task=task)

    def make(
        self, label: str, removed: Mapping[str, Sequence[int]], dropped: Sequence[str]
    ) -> Variant:
        """The artifact of a variant.

        Raises whatever the runtime has against it.
        """
        plan = {"heads": self.step.heads, "removed": removed, "dropped": dropped, "form": "graph"}
        with self.narrator.busy(f"exporting {label}"):
            nothing = not removed and not dropped
            small = self.traced if nothing else self.step.rewrite(self.traced, Choices(plan))
            assert isinstance(small, Traced)
            graph: Any = small
            if self.precision == "int8":
                quantize = QuantizeStatic(runtime=self.runtime)
                graph = quantize.rewrite(small, quantize.choose(small, self._quick))
            place = self.folder / f"{len(list(self.folder.iterdir())):02d}"
            artifact = export(graph, self.runtime, place, precision=self.precision)
            artifact = artifact.with_options(
                threads=self.threads, execution="float32", device=self.goal.target.device
            )
            artifact.save()
        return Variant(label, removed, tuple(dropped), artifact, small)

    def race(self, variants: Sequence[Variant], seconds: float) -> Race:
        """All of them in turns, at the target's batch, `seconds` for each."""
        goal = self.goal
        terms = Terms(
            seconds * len(variants),
            goal.budget.confidence,
            goal.seed,
            goal.target.batch,
            self.threads,
        )
        arrays = timing_inputs(goal, self.traced, goal.target.batch)
        artifacts = {variant.label: variant.artifact for variant in variants}
        with self.narrator.share(f"timing {len(artifacts)} artifacts in turns") as progress:
            return self.bench.race(artifacts, arrays, terms, progress)

    def network(self, variant: Variant, seconds: float) -> Network:
        """Where a variant's time goes, operator by operator, at the widths it has."""
        names = list(operator_names(fold(variant.graph).graph_module).values())
        arrays = timing_inputs(self.goal, self.traced, self.goal.target.batch)
        with self.narrator.busy(f"timing the operators of {variant.label}"):
            counts = [
                attribute(self.bench.op_times(variant.artifact, arrays), names)
                for _ in range(NUM_COUNTS)
            ]
        alive = self.found.channels.alive(variant.removed)
        seen = []
        for item in self.operators:
            # An interruption only adds: each operator's least time is taken.
            least = min(count.seconds.get(item.name, 0.0) for count in counts)
            if item.block not in variant.dropped and least > 0:
                widths = tuple(int(alive[ids].sum()) for ids in item.axes)
                seen.append(Seen(item.family, widths, least))
        return Network(tuple(seen), seconds)


def operators_of(found: PruningSurvey) -> tuple[Operator, ...]:
    """The operators of a graph that a runtime may spend time on."""
    channels = found.channels
    module = channels.traced.graph_module
    inside = {node: block.name for block in found.blocks for node in block.nodes}
    operators = []
    for node, name in operator_names(module).items():
        if node.op != "call_function" or operator(node) in _VIEWS:
            continue
        if not isinstance(node.meta.get("val"), torch.Tensor):
            continue
        axes = _axes(found, node)
        operators.append(Operator(name, _family(found, node), axes, inside.get(node)))
    return tuple(operators)


def _axes(found: PruningSurvey, node: fx.Node) -> tuple[Ids, ...]:
    """The axes that are a layer's outputs and inputs; of others, the last labelled one."""
    channels = found.channels
    weight = _weight(found, node)
    if weight is not None:
        return tuple(ids for ids in channels.labels(weight)[:2] if ids is not None)
    labels = [ids for ids in channels.labels(node) if ids is not None]
    return tuple(labels[-1:])


def _weight(found: PruningSurvey, node: fx.Node) -> fx.Node | None:
    module = found.channels.traced.graph_module
    for other in node.all_input_nodes:
        tensor = tensor_of(module, other)
        if tensor is not None and tensor.dim() > 1:
            return other
    return None


def _family(found: PruningSurvey, node: fx.Node) -> tuple[str, ...]:
    """All that tells an operator's work but its widths."""
    channels = found.channels

    def fixed(other: fx.Node) -> str:
        value = other.meta.get("val")
        if not isinstance(value, torch.Tensor):
            return ""
        labels = channels.labels(other)
        sizes = zip(value.shape, labels, strict=True)
        return "x".join("·" if ids is not None else str(size) for size, ids in sizes)

    settings = [str(a) for a in node.args if isinstance(a, int | float)]
    settings += [str(a) for a in node.args if isinstance(a, list | tuple) and _plain(a)]
    shapes = [fixed(other) for other in (*node.all_input_nodes, node)]
    whole = _weight(found, node)
    return (operator(node), *shapes, *settings, "" if whole is None else fixed(whole))


def _plain(values: Any) -> bool:
    return all(isinstance(value, int | float) for value in values)

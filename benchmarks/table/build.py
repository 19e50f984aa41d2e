"""A row's graph, made from the float one; calibration is shared by all rows that need the same.

A step that changes nothing ends its row, with its reason; in "all refinements" it is passed over,
because there it is one of several. Quantization-aware training learns from the float network
alone, without a label, on the samples the model has for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from models import Model
from models.model import Watch

from burnish import Goal
from burnish.core import Choices, Rewrite
from burnish.distill import distill
from burnish.errors import NoEffect
from burnish.graph import Traced, trace
from burnish.quantize import (
    Cast,
    ConvertQat,
    CrossLayerEqualization,
    PrepareQat,
    QuantizeDynamic,
    QuantizeStatic,
    QuantizeWeights,
    SmoothQuant,
    Statistics,
    calibrate,
    convert_qat,
    coverage,
    fold,
)
from table.entries import ALL, Entry

TRAINING: Mapping[str, Any] = {
    "learning_rate": 2e-5,
    "optimizer": "adamw",
    "schedule": "one_cycle",
}


@dataclass(frozen=True, eq=False)
class Made:
    """A row's graph, how many of its operators are int8 (or have weights in few bits), seconds."""

    graph: Traced
    int8: tuple[int, int]
    seconds: dict[str, float]
    notes: tuple[str, ...]


@dataclass(eq=False)
class Builder:
    """Builds the graphs of one model's rows.

    `steps`: of quantization-aware training, about: whole passes over the samples there are.
    """

    model: Model
    watch: Watch
    seed: int
    steps: int
    _prepared: dict[str, tuple[Traced, Statistics, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        example = self.model.inputs()
        axes = {leaf.key: leaf.axes for leaf in example.leaves()}
        self.traced = trace(self.model.network, example.args, dict(example.kwargs), axes)
        self.folded = fold(self.traced)

    def make(self, entry: Entry) -> Made:
        """A row's graph.

        Raises:
            NoEffect, Unsupported, InvalidInput: as its steps say.
        """
        *before, last = entry.steps or (None,)
        if last is None:
            return Made(self.traced, (0, 0), {}, ())
        if isinstance(last, ConvertQat):
            (prepare,) = before
            assert isinstance(prepare, PrepareQat)
            return self._trained(prepare)
        notes: tuple[str, ...] = ()
        name = ""
        for step in before:
            try:
                name = self._prepare(step)
            except NoEffect as error:
                if entry.technique != ALL:
                    raise
                notes = (f"{type(step).__name__}: {error}".splitlines()[0],)
        choose, graph, seconds = self._decision(last, name)
        spent = {"prepare": seconds}
        start = time.perf_counter()
        choices = choose()
        rewritten = last.rewrite(graph, choices)
        spent["choose and rewrite"] = time.perf_counter() - start
        assert isinstance(rewritten, Traced)
        return Made(rewritten, _counted(choices), spent, notes)

    def _trained(self, step: PrepareQat) -> Made:
        """Prepare, learn what the float network says, convert."""
        start = time.perf_counter()
        choices = step.choose_from(self.traced, self.model.calls(), self.seed)
        prepared = step.rewrite(self.traced, choices)
        spent = {"prepare": time.perf_counter() - start}
        start = time.perf_counter()
        fitted = distill(
            prepared,
            self.model.network,
            self.model.task(),
            labels=None,
            epochs=-(-self.steps // len(self.model.training)),
            seed=self.seed,
            watch=self.watch,
            **TRAINING,
        )
        spent["train"] = time.perf_counter() - start
        return Made(convert_qat(fitted.model), _counted(choices), spent, ())

    def _decision(self, step: Rewrite, name: str) -> tuple[Callable[[], Any], Traced, float]:
        """What choosing is for a step, on which graph, and the seconds until it can begin."""
        if isinstance(step, QuantizeStatic):
            graph, statistics, seconds = self._at(name)
            return lambda: step.choose_from(graph, statistics, self.seed), graph, seconds
        graph, _, seconds = self._at(name) if name else (self.folded, None, 0.0)
        if isinstance(step, QuantizeDynamic):
            return lambda: step.choose_from(graph), graph, seconds
        if isinstance(step, QuantizeWeights):
            goal = Goal(self.model.task(), seed=self.seed)
            return lambda: step.choose(self.model.network, goal), graph, seconds
        assert isinstance(step, Cast)
        return lambda: step.choose_from(graph, self.model.calls()), graph, seconds

    def _at(self, name: str) -> tuple[Traced, Statistics, float]:
        """The float graph after a preparing step ("": none), its statistics, and its seconds."""
        if name not in self._prepared:
            assert name == ""
            start = time.perf_counter()
            statistics = calibrate(self.folded, self.model.calls(), watch=self.watch)
            self._prepared[name] = (self.folded, statistics, time.perf_counter() - start)
        return self._prepared[name]

    def _prepare(self, step: Rewrite) -> str:
        """Apply SmoothQuant or equalization, and calibrate what comes out."""
        name = type(step).__name__
        if name not in self._prepared:
            folded, statistics, seconds = self._at("")
            start = time.perf_counter()
            if isinstance(step, SmoothQuant):
                choices = step.choose_from(folded, statistics)
            else:
                assert isinstance(step, CrossLayerEqualization)
                choices = step.choose_from(folded)
            graph = step.rewrite(folded, choices)
            assert isinstance(graph, Traced)
            again = calibrate(graph, self.model.calls(), watch=self.watch)
            spent = seconds + time.perf_counter() - start
            self._prepared[name] = (graph, again, spent)
        return name


def _counted(choices: Choices) -> tuple[int, int]:
    """Operators in int8, or with weights in few bits; and all."""
    rows = coverage(choices)
    return sum(row.state.startswith("int") for row in rows), len(rows)

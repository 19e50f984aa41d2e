"""How the int8 graphs of a search are made: four recipes, from the cheapest on.

    static    calibrated ranges, fast bias correction
    dynamic   ranges taken at run time; needs no data; for networks without convolutions
    refined   static after SmoothQuant where that pays, with ranges chosen layer by layer
    learned   refined, and weights rounded by what they do to their layer's output (AdaRound)

A recipe is a name in a variant's key, so that what it costs is paid once in the life of a run
folder. Calibration and smoothing are shared by all variants of one search.

Left out: cross-layer equalization and sequential bias correction, which lowered no error that was
measured (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from burnish.auto._trial import Variant
from burnish.core import Applied, Choices, Rewrite, settings_of
from burnish.errors import NoEffect
from burnish.graph import Traced, operator
from burnish.quantize import (
    Cast,
    Coverage,
    QuantizeDynamic,
    QuantizeStatic,
    Sensitivity,
    SmoothQuant,
    Statistics,
    Weights,
    calibrate,
    coverage,
    sensitivity,
)

DTYPES = ("float16", "bfloat16")
Call = tuple[torch.Tensor, ...]
Calls = Callable[[], Iterable[Call]]


@dataclass(frozen=True)
class Made:
    """A variant's graph, how it came to be, and what became of each operator."""

    graph: Traced
    history: tuple[Applied, ...] = ()
    coverage: tuple[Coverage, ...] = ()


class Maker:
    """Makes the graphs of a search's variants from one folded float graph."""

    def __init__(self, folded: Traced, calls: Calls, seed: int) -> None:
        self.folded = folded
        self._calls = calls
        self._seed = seed
        self._statistics: Statistics | None = None
        self._smoothed: tuple[Traced, Statistics, tuple[Applied, ...]] | None = None

    def prepare(self, variant: Variant) -> None:
        """What takes long and has a progress bar of its own: calibration."""
        if variant.recipe == "dynamic" or (variant.precision != "int8" and not _cast_to(variant)):
            return
        self.statistics()
        if variant.recipe in ("refined", "learned"):
            self._smooth()

    def statistics(self) -> Statistics:
        """Calibration of the float graph, taken when first needed."""
        if self._statistics is None:
            self._statistics = calibrate(self.folded, self._calls())
        return self._statistics

    def make(self, variant: Variant) -> Made:
        """The graph of a variant. NoEffect, Unsupported or InvalidInput as its steps say."""
        dtype = _cast_to(variant)
        if dtype is not None:
            cast = Cast(dtype)
            sample = self.statistics().sample.batches()
            return self._applied(self.folded, (), cast, cast.choose_from(self.folded, sample))
        if variant.precision != "int8":
            return Made(self.folded)
        if variant.recipe == "dynamic":
            dynamic = QuantizeDynamic(variant.runtime, exclude=variant.exclude)
            return self._applied(self.folded, (), dynamic, dynamic.choose_from(self.folded))
        folded, history, static, choices = self._decide(variant)
        return self._applied(folded, history, static, choices)

    def sensitivity(
        self, variant: Variant, calls: Sequence[Call], targets: Sequence[Any] | None, score: Any
    ) -> Sensitivity:
        """What each operator of a static variant costs alone."""
        folded, _, _, choices = self._decide(variant)
        return sensitivity(folded, choices, calls, targets=targets, score=score)

    def _decide(
        self, variant: Variant
    ) -> tuple[Traced, tuple[Applied, ...], QuantizeStatic, Choices]:
        static = _static(variant)
        if variant.recipe == "static":
            choices = static.choose_from(self.folded, self.statistics(), self._seed)
            return self.folded, (), static, choices
        folded, statistics, history = self._smooth()
        return folded, history, static, static.choose_from(folded, statistics, self._seed)

    def _smooth(self) -> tuple[Traced, Statistics, tuple[Applied, ...]]:
        """The smoothed graph with its own statistics; the plain one where smoothing is no help."""
        if self._smoothed is None:
            step = SmoothQuant()
            try:
                choices = step.choose_from(self.folded, self.statistics())
            except NoEffect:
                self._smoothed = (self.folded, self.statistics(), ())
                return self._smoothed
            graph = step.rewrite(self.folded, choices)
            assert isinstance(graph, Traced)
            applied = Applied("SmoothQuant", settings_of(step), choices)
            seen = calibrate(graph, self._calls())
            self._smoothed = (graph, seen, (applied,))
        return self._smoothed

    @staticmethod
    def _applied(
        folded: Traced, history: tuple[Applied, ...], step: Rewrite, choices: Choices
    ) -> Made:
        graph = step.rewrite(folded, choices)
        assert isinstance(graph, Traced)
        applied = Applied(type(step).__name__, settings_of(step), choices)
        return Made(graph, (*history, applied), coverage(choices))


def _cast_to(variant: Variant) -> str | None:
    """The type a variant's graph is cast to, if it is; bfloat16 in OpenVINO is a hint instead."""
    hinted = (variant.runtime, variant.precision) == ("openvino", "bfloat16")
    return variant.precision if variant.precision in DTYPES and not hinted else None


def _static(variant: Variant) -> QuantizeStatic:
    if variant.recipe == "static":
        return QuantizeStatic(variant.runtime, exclude=variant.exclude)
    return QuantizeStatic(
        variant.runtime,
        ranges="per layer",
        weights=Weights(rounding="learned" if variant.recipe == "learned" else "nearest"),
        exclude=variant.exclude,
    )


def dynamic_pays(folded: Traced) -> bool:
    """Whether ranges at run time are worth a try: they are slow in front of convolutions."""
    return not any(
        node.op == "call_function" and operator(node).startswith("conv")
        for node in folded.graph_module.graph.nodes
    )

"""What each layer costs in each precision on one runtime, told by whole artifacts.

Artifacts in which every layer has one precision are run; the runtime's own counters give a time for
each operator, which goes to its layer, and the times are scaled so that they add up to what the
whole artifact took. So the table tells those artifacts' times. For a mixed one it does not: where
precision changes, values are converted. What that costs for an element is told by a *probe*, an
artifact in which every other layer changes precision: what it takes beyond its layers is shared out
among its seams. When an allocation is measured as a whole, there are two mixed artifacts to fit
two numbers to: the price of an element, and what mixing makes layers slower by.

Layers that a runtime computes in one kernel are tied: their time cannot be told apart, and taking
one of them out would break the kernel up, so they get one precision.

Left out: correcting single layers by what the counters say of them in a mixed artifact.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy.optimize import nnls

from burnish.core import Allocation, Option, Seam, allocate
from burnish.errors import Infeasible
from burnish.quantize import Survey

Array = np.ndarray[Any, Any]
Precisions = Mapping[str, str]
Minimise = Literal["loss", "cost"]
_MOST_SCALE = 2.0


@dataclass(frozen=True)
class Whole:
    """An artifact in which every layer has one precision, where it can have it.

    `seconds` is what a run takes; `operators` where the runtime's counters put it, and `fused` the
    operators that another one's kernel computes, with that one.
    """

    seconds: float
    operators: Mapping[str, float]
    fused: Mapping[str, str]


@dataclass(frozen=True)
class Costs:
    """Costs by layer and precision, of seams, and of what belongs to no layer.

    `groups` are the layers that are decided together. An allocation costs `rest + scale * (layers +
    rate * elements of open seams)`; `seen` are the mixed ones that were measured.
    """

    survey: Survey
    layers: Mapping[str, Mapping[str, float]]
    groups: tuple[tuple[str, ...], ...]
    rate: float = 0.0
    scale: float = 1.0
    rest: float = 0.0
    seen: tuple[tuple[Precisions, float], ...] = ()

    @classmethod
    def of_times(cls, survey: Survey, wholes: Mapping[str, Whole]) -> Costs:
        """From the artifacts of one precision each, by precision; the float one among them.

        A layer that cannot have the precision of an artifact is float in it; its time is taken from
        the float artifact.
        """
        found: dict[str, dict[str, float]] = {layer.name: {} for layer in survey.layers}
        for precision, whole in wholes.items():
            counted = math.fsum(whole.operators.values())
            factor = whole.seconds / counted if counted else 0.0
            for name, seconds in _by_layer(survey, whole.operators).items():
                if precision in survey.losses[name]:
                    found[name][precision] = factor * seconds
        fused = [whole.fused for whole in wholes.values()]
        return cls(survey, found, _tied(survey, fused))

    @classmethod
    def of_bytes(cls, survey: Survey, float_bytes: float, able: Collection[str]) -> Costs:
        """Bytes of stored weights; what the float file holds besides belongs to no layer.

        `able` are the precisions that the runtime made an artifact of.
        """
        base = math.fsum(mine[survey.base] for mine in survey.num_bytes.values())
        single = tuple((layer.name,) for layer in survey.layers)
        found = {
            layer: {p: value for p, value in mine.items() if p in able}
            for layer, mine in survey.num_bytes.items()
        }
        apart = replace(survey, between={})  # a file has no seams
        return cls(apart, found, single, rest=max(0.0, float_bytes - base))

    def predict(self, precisions: Precisions) -> float:
        """What an allocation costs by this table."""
        return self.rest + self.scale * (
            self._layers(precisions) + self.rate * self._open(precisions)
        )

    def observed(self, precisions: Precisions, measured: float) -> Costs:
        """Corrected so that it tells what this allocation was measured to cost, and those before.

        What one allocation takes beyond its layers is taken for seams. From the second on, scale
        and rate are fitted to all of them, and the last one is told exactly.
        """
        seen = (*self.seen, (precisions, measured - self.rest))
        layers = np.array([self._layers(p) for p, _ in seen])
        elements = np.array([float(self._open(p)) for p, _ in seen])
        wholes = np.array([whole for _, whole in seen])
        scale, paid = _fitted(layers, elements, wholes)
        told = scale * layers[-1] + paid * elements[-1]
        last = wholes[-1] / told if told > 0 else 1.0
        return replace(self, scale=last * scale, rate=paid / scale, seen=seen)

    def solve(
        self, limit: float, minimise: Minimise = "loss", loss_scale: float = 1.0
    ) -> tuple[Allocation, dict[str, dict[str, Option]]]:
        """The best allocation under a limit on the cost, or (minimise="cost") on the loss.

        Returns:
            It, for single layers, and the options that there were for them.

        Raises:
            Infeasible: none keeps the limit; `result` is the nearest allocation.
        """
        options = self._options(loss_scale)
        heads = {group[0]: group for group in self.groups}
        joined = {head: _joined(options, group) for head, group in heads.items()}
        room = max(0.0, limit - self.rest) if minimise == "loss" else limit
        try:
            found = allocate(joined, room, minimise, self._seams())
        except Infeasible as error:
            assert isinstance(error.result, Allocation)
            raise Infeasible(str(error), self._spread(error.result, heads)) from None
        return self._spread(found, heads), options

    def _spread(self, found: Allocation, heads: Mapping[str, Sequence[str]]) -> Allocation:
        """An allocation of groups as one of layers, in their order."""
        by_layer = {layer: found.chosen[head] for head, group in heads.items() for layer in group}
        ordered = {layer.name: by_layer[layer.name] for layer in self.survey.layers}
        return replace(found, chosen=ordered, cost=found.cost + self.rest)

    def _options(self, loss_scale: float) -> dict[str, dict[str, Option]]:
        """What was measured to choose from: a precision without an artifact is no option."""
        plain = self.survey.options(lambda layer, p: self.scale * self.layers[layer].get(p, 0.0))
        return {
            layer: {
                p: replace(option, loss=loss_scale * option.loss)
                for p, option in mine.items()
                if p in self.layers[layer]
            }
            for layer, mine in plain.items()
        }

    def _seams(self) -> list[Seam]:
        head = {layer: group[0] for group in self.groups for layer in group}
        each = self.scale * self.rate
        return [
            Seam(head[one], head[other], each * elements)
            for (one, other), elements in self.survey.between.items()
            if head[one] != head[other] and each > 0
        ]

    def _layers(self, precisions: Precisions) -> float:
        return math.fsum(self.layers[layer].get(p, 0.0) for layer, p in precisions.items())

    def _open(self, precisions: Precisions) -> int:
        """Elements that change form."""
        return sum(
            elements
            for (one, other), elements in self.survey.between.items()
            if (precisions[one] == "int8") != (precisions[other] == "int8")
        )


def _fitted(layers: Array, elements: Array, wholes: Array) -> tuple[float, float]:
    """Scale of the layers, and what an element costs, neither below 0, by relative squares."""
    if len(wholes) == 1:
        beyond = max(0.0, float(wholes[0] - layers[0]))
        return (1.0, beyond / float(elements[0])) if elements[0] and beyond else (1.0, 0.0)
    found, _ = nnls(np.stack([layers, elements], 1) / wholes[:, None], np.ones(len(wholes)))
    scale, paid = (float(value) for value in found)
    if not 1 / _MOST_SCALE < scale < _MOST_SCALE:  # what was measured does not tell the two apart
        scale = 1.0
        left = np.maximum(0.0, wholes - layers)
        paid = float(left.sum() / elements.sum()) if elements.any() else 0.0
    return scale, paid


def alternating(costs: Costs) -> dict[str, str]:
    """The probe: every other group that can be int8 is, the rest stay in float."""
    survey = costs.survey
    found = survey.uniform(survey.base)
    able = [g for g in costs.groups if all("int8" in survey.losses[layer] for layer in g)]
    for group in able[::2]:
        found |= dict.fromkeys(group, "int8")
    return found


def _by_layer(survey: Survey, seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds of operators, by the layer each belongs to."""
    return {
        layer.name: math.fsum(seconds.get(name, 0.0) for name in (layer.name, *layer.followers))
        for layer in survey.layers
    }


def _joined(options: Mapping[str, Mapping[str, Option]], group: Sequence[str]) -> dict[str, Option]:
    """The options that all layers of a group have, summed."""
    first = options[group[0]]
    return {
        precision: Option(
            math.fsum(options[layer][precision].cost for layer in group),
            math.fsum(options[layer][precision].loss for layer in group),
            option.form,
        )
        for precision, option in first.items()
        if all(precision in options[layer] for layer in group)
    }


def _tied(survey: Survey, fused: Sequence[Mapping[str, str]]) -> tuple[tuple[str, ...], ...]:
    """The layers, those in one group that some artifact computes in one kernel."""
    order = [layer.name for layer in survey.layers]
    leader = {
        name: layer.name for layer in survey.layers for name in (layer.name, *layer.followers)
    }
    parent = {name: name for name in order}

    def head(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for table in fused:
        for name, owner in table.items():
            if name in parent and owner in leader:
                one, other = sorted((head(name), head(leader[owner])), key=order.index)
                parent[other] = one
    return tuple(
        tuple(name for name in order if head(name) == first)
        for first in order
        if head(first) == first
    )

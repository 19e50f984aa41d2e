"""Low-rank factorization: one linear layer or convolution becomes two smaller ones.

    trace → the layers that may → what each loses at each rank → ranks for a target → two for one

A matrix of rank r, [out, in], is a product of [out, r] and [r, in]: fewer numbers and fewer
multiplications, where r is small. Trained layers have no low rank, but their outputs nearly do, and
what is lost is chosen to be least on the calibration data (`_low_rank_spectrum`).

The result is the user's own class where its code only calls its layers, else a graph. Either
trains, exports and quantizes.

Left out: the spatial scheme, k x 1 and 1 x k (Jaderberg et al., 2014), whose best layers for given
data have no closed form; tensor decompositions (Tucker, CP); training on, which is `fit`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import InitVar, asdict, dataclass
from typing import Any

from torch import nn

from burnish.core import Choices, Rewrite
from burnish.errors import InvalidInput
from burnish.goal import Call, Goal, Inputs
from burnish.graph import Traced, retrace
from burnish.prune._cost import COSTS
from burnish.prune._given import calls_of, traced_for
from burnish.prune._low_rank_insert import factorize_graph, factorize_module, parts_of, tensors_of
from burnish.prune._low_rank_layers import Layer, in_module, layers_of
from burnish.prune._low_rank_ranks import COST, RankCost, Ranks, Wanted, choose_ranks
from burnish.prune._low_rank_spectrum import (
    Spectrum,
    activation_spectra,
    factors,
    weight_spectra,
)
from burnish.prune._module import GRAPH, MODULE, form_of
from burnish.prune._report import FROZEN, KEPT
from burnish.prune._settings import check_multiple, check_ratio, check_words, settle_ignore

ACTIVATION, WEIGHT = "activation", "weight"
FACTORIZED = "factorized"
_BECAUSE = "its code reads more of a layer than what it returns"


@dataclass(frozen=True)
class Factorize(Rewrite):
    """A copy of the model with some of its layers as two of lower rank.

    Args:
        ratio: how much to remove, from 0 up to, not including, 1.
        of: what the ratio is a share of: "macs", "parameters" or "bytes" of the whole model, or
            "cost", the sum of `cost` over the layers that may be factorized.
        criterion: "activation", the least error of the layers' outputs on calibration data, or
            "weight", of their weights.
        ignore: layers that stay: names of the table, module paths, or patterns of them.
        round_to: ranks are multiples of it.
        cost: `cost(layer, rank)` -> what an operator takes with that rank, or, for None, as it is;
            for of="cost". A function is no setting: a history keeps what came of it, in the plan.

    Raises:
        InvalidInput: a setting out of range, or a cost without of="cost".
    """

    ratio: float = 0.3
    of: str = "macs"
    criterion: str = ACTIVATION
    ignore: tuple[str, ...] = ()
    round_to: int = 8
    cost: InitVar[RankCost | None] = None

    def __post_init__(self, cost: RankCost | None) -> None:
        check_ratio(self)
        check_words(self, {"of": (*COSTS, COST), "criterion": (ACTIVATION, WEIGHT)})
        check_multiple(self)
        settle_ignore(self)
        if cost is not None and not callable(cost):
            raise InvalidInput(f"Factorize(cost={cost!r}): a function of a layer's name and a rank")
        if cost is not None and self.of != COST:
            raise InvalidInput(
                f"Factorize(of={self.of!r}, cost=…): the cost is asked with of='cost' alone"
            )
        object.__setattr__(self, COST, cost)

    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        """Look at the layers, on the goal's calibration data where wanted, and decide.

        Raises:
            InvalidInput: "activation" without calibration data; otherwise as `choose_from`.
        """
        calls = goal.task.calls("calibration") if self.criterion == ACTIVATION else None
        return self._choose(model, goal.task.inputs, calls)

    def choose_from(self, traced: Traced, calls: Iterable[Call] | None = None) -> Choices:
        """Decide for a traced model, with calls of it where criterion="activation".

        Raises:
            InvalidInput: no calls where they are needed, or calls where they are not; an entry of
                `ignore` that matches nothing; of="cost" without a cost, or one that is no number.
            NoEffect: no layer can be factorized, or nothing is to be removed.
            Infeasible: so much cannot be removed; `result` is the share that can.
        """
        layers = layers_of(traced, self.ignore)
        return self._decided(traced, layers, self._spectra(traced, layers, calls))

    def _choose(self, model: nn.Module, inputs: Inputs, calls: Iterable[Call] | None) -> Choices:
        """Decide for a model in the form it has: a module stays one where its code allows that."""
        traced = traced_for(model, inputs)
        layers = layers_of(traced, self.ignore)
        spectra = self._spectra(traced, layers, calls)
        if isinstance(model, Traced):
            return self._decided(traced, layers, spectra)
        choices = self._decided(traced, in_module(layers, model), spectra)
        parts = parts_of(choices)
        small = factorize_graph(traced, parts)
        form = form_of(lambda: factorize_module(model, parts), small, inputs, _BECAUSE)
        if form["form"] == GRAPH:  # where there is more that may be factorized
            choices = self._decided(traced, layers, spectra)
        return Choices({**choices.plan, **form}, choices.tensors)

    def _spectra(
        self, traced: Traced, layers: Sequence[Layer], calls: Iterable[Call] | None
    ) -> dict[str, Spectrum]:
        if self.of == COST and vars(self)[COST] is None:
            raise InvalidInput(
                "Factorize(of='cost') needs cost=…, a function of a layer and a rank"
            )
        free = [layer for layer in layers if not layer.reason]
        if self.criterion == WEIGHT:
            if calls is not None:
                raise InvalidInput(
                    "Factorize(criterion='weight') looks at no data: leave the calibration data "
                    "out, or take criterion='activation'"
                )
            return weight_spectra(free)
        return activation_spectra(traced, free, calls or ())

    def _decided(
        self, traced: Traced, layers: Sequence[Layer], spectra: Mapping[str, Spectrum]
    ) -> Choices:
        wanted = Wanted(self.ratio, self.of, self.round_to, vars(self)[COST])
        found = choose_ranks(traced, layers, spectra, wanted)
        parts = {
            layer.name: factors(layer, spectra[layer.name], found.ranks[layer.name])
            for layer in layers
            if layer.name in found.ranks
        }
        plan = {
            "call": traced.call,
            "ranks": dict(found.ranks),
            "saved": found.saved,
            "layers": [asdict(_row(layer, found, spectra.get(layer.name))) for layer in layers],
            "form": GRAPH,
            "form because": "it was chosen for a graph",
        }
        return Choices(plan, tensors_of(parts))

    def rewrite(self, model: nn.Module, choices: Choices) -> nn.Module:
        """The model with two layers for one, in the form that was chosen: module or graph.

        Pure: equal choices give equal models.

        Raises:
            InvalidInput: the plan names layers the model does not have.
        """
        parts = parts_of(choices)
        if isinstance(model, Traced):
            return factorize_graph(model, parts)
        if choices.plan["form"] == MODULE:
            return factorize_module(model, parts)
        return factorize_graph(retrace(model, choices.plan["call"]), parts)


@dataclass(frozen=True)
class LayerRank:
    """A layer's rank before and after, and the share of its outputs' variance that is lost.

    `state`: "factorized", "kept" (it could have been) or "frozen" (it could not), with the reason.
    """

    layer: str
    before: int
    after: int
    error: float
    state: str
    reason: str


def _row(layer: Layer, found: Ranks, spectrum: Spectrum | None) -> LayerRank:
    full = layer.full_rank
    reason = found.reasons.get(layer.name, "")
    if layer.name not in found.ranks:
        state = KEPT if layer.name in found.able else FROZEN
        return LayerRank(layer.name, full, full, 0.0, state, reason)
    assert spectrum is not None
    rank = found.ranks[layer.name]
    return LayerRank(layer.name, full, rank, spectrum.error(rank), FACTORIZED, spectrum.note)


def factorized_layers(choices: Choices) -> tuple[LayerRank, ...]:
    """The table of a factorization: every layer's rank, from and to, or why it has its own."""
    return tuple(LayerRank(**row) for row in choices.plan["layers"])


def factorize(
    model: nn.Module,
    example: Any,
    ratio: float = 0.3,
    *,
    calibration: Iterable[Any] | None = None,
    **settings: Any,
) -> nn.Module:
    """A copy of a model with some of its layers as two of lower rank.

    Args:
        model: in eval mode or not; left as it was.
        example: one call: a tensor, a tuple of positional arguments, a dict of keyword ones, or
            `Inputs`.
        ratio: how much to remove, as of `Factorize`.
        calibration: batches like `example`, for criterion="activation"; the first 1024 samples
            count.
        settings: the others of `Factorize`.

    Returns:
        The user's own class, where its code only calls its layers; else a graph called like it.

    Raises:
        InvalidInput, NoEffect, Infeasible: as of `Factorize`.
        Unsupported: the model cannot be exported.
    """
    step = Factorize(ratio, **settings)
    inputs = Inputs.of(example)
    calls = None if calibration is None else calls_of(calibration)
    return step.rewrite(model, step._choose(model, inputs, calls))

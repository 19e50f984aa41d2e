"""Which rank each layer gets: the least error in the sum, for a share of a cost removed.

Each layer has options: to stay as it is, or a rank at which it costs less. An option's loss is the
share of its own outputs' variance that the layer loses, so that layers of any scale compare; the
sum over all layers is least, under a limit on the sum of their costs (`core.allocate`).

A cost is parameters, bytes or MACs of the whole model, or handed in: what an operator takes at a
rank, from a latency table. Then the share is one of the layers' own sum: what the rest of the model
takes, the function was not asked.

Left out: what an error in one layer does to the outputs of the model (`sensitivity` measures that
for precisions).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from burnish.core import Option, allocate, check_figure
from burnish.errors import Infeasible, NoEffect
from burnish.graph import Traced
from burnish.prune._cost import whole_cost
from burnish.prune._low_rank_layers import Layer
from burnish.prune._low_rank_spectrum import Spectrum

RankCost = Callable[[str, int | None], float]
COST = "cost"
GAP = 1e-3  # the losses are estimates: a sum that much above the least will do
_AS_IT_IS = "as it is"


@dataclass(frozen=True)
class Ranks:
    """What was decided: a rank for each layer that gets one, and why the others do not.

    `able` are the layers that there was a choice for; `saved` is the share of the cost that is
    removed.
    """

    ranks: Mapping[str, int]
    able: frozenset[str]
    reasons: Mapping[str, str]
    saved: float


@dataclass(frozen=True)
class Wanted:
    """How much to remove, of what, ranks a multiple of what; `cost` where that is handed in."""

    ratio: float
    of: str
    round_to: int
    cost: RankCost | None = None


def choose_ranks(
    traced: Traced, layers: Sequence[Layer], spectra: Mapping[str, Spectrum], wanted: Wanted
) -> Ranks:
    """The ranks of the least error that save what is wanted.

    Raises:
        NoEffect: no layer can cost less, or nothing is to be removed.
        Infeasible: so much cannot be removed; `result` is the share that can.
        InvalidInput: a cost handed in that is no finite number of 0 or more.
    """
    cost = wanted.cost or _cost(layers, spectra, wanted.of)
    reasons = {layer.name: layer.reason for layer in layers if layer.reason}
    before: dict[str, float] = {}
    options: dict[str, dict[str, Option]] = {}
    for layer in layers:
        if layer.reason:
            continue
        whole = check_figure(cost(layer.name, None), "cost", layer.name, "full rank")
        before[layer.name] = whole
        found = _options(layer, spectra[layer.name], whole, cost, wanted.round_to)
        if found:
            options[layer.name] = {_AS_IT_IS: Option(whole, 0.0), **found}
        else:
            reasons[layer.name] = _pays_nowhere(layer, wanted)
    if not options:
        raise NoEffect(f"no layer of this model can be factorized:\n  {_listed(reasons)}")
    if wanted.ratio == 0:
        raise NoEffect(f"ratio=0 of the {wanted.of} removes nothing")
    whole = sum(before.values()) if wanted.of == COST else whole_cost(traced, wanted.of)
    chosen = _solved(options, reasons, wanted, whole)
    ranks = {name: int(option) for name, option in chosen.items() if option != _AS_IT_IS}
    kept = dict.fromkeys(options.keys() - ranks.keys(), "the share asked for leaves it as it is")
    after = sum(options[name][option].cost for name, option in chosen.items())
    saved = (sum(before[name] for name in options) - after) / whole
    return Ranks(ranks, frozenset(options), reasons | kept, saved)


def _solved(
    options: Mapping[str, Mapping[str, Option]],
    reasons: Mapping[str, str],
    wanted: Wanted,
    whole: float,
) -> Mapping[str, str]:
    """The option of each layer."""
    most = sum(
        mine[_AS_IT_IS].cost - min(o.cost for o in mine.values()) for mine in options.values()
    )
    if most < wanted.ratio * whole:
        raise Infeasible(
            f"ratio={wanted.ratio:g} of the {wanted.of} cannot be removed: with the lowest rank "
            f"(round_to={wanted.round_to}) in each of the {len(options)} that may be factorized "
            f"{most / whole:.3f} is; left alone are, among others:\n  {_listed(reasons)}",
            result=most / whole,
        )
    limit = sum(mine[_AS_IT_IS].cost for mine in options.values()) - wanted.ratio * whole
    return allocate(options, limit, gap=GAP).chosen


def _options(
    layer: Layer, spectrum: Spectrum, whole: float, cost: RankCost, round_to: int
) -> dict[str, Option]:
    """The ranks at which a layer costs less than as it is."""
    found = {}
    for rank in range(round_to, layer.full_rank + 1, round_to):
        value = check_figure(cost(layer.name, rank), "cost", layer.name, f"rank {rank}")
        if value < whole:
            found[str(rank)] = Option(value, spectrum.error(rank))
    return found


def _cost(layers: Sequence[Layer], spectra: Mapping[str, Spectrum], of: str) -> RankCost:
    """Parameters, bytes or MACs of a layer, as one or as two."""
    known = {layer.name: layer for layer in layers}

    def cost(name: str, rank: int | None) -> float:
        layer = known[name]
        size = layer.inputs * layer.outputs
        if rank is not None:
            size = rank * (layer.inputs + layer.outputs)
        if of == "macs":
            return size * layer.positions
        biased = layer.bias is not None or (rank is not None and spectra[name].mean is not None)
        size += layer.outputs if biased else 0
        if of == "bytes":
            return float(size * layer.weight.element_size())
        return float(size) if isinstance(layer.weight, nn.Parameter) else 0.0

    return cost


def _pays_nowhere(layer: Layer, wanted: Wanted) -> str:
    shape = f"{layer.outputs} x {layer.inputs}"
    if layer.full_rank < wanted.round_to:
        return f"its matrix, {shape}, has no rank of {wanted.round_to} (round_to)"
    return (
        f"as two layers it has no fewer {wanted.of} at any multiple of {wanted.round_to} "
        f"(round_to): its matrix is {shape}"
        if wanted.of != COST
        else f"as two layers it costs no less at any multiple of {wanted.round_to} (round_to)"
    )


def _listed(reasons: Mapping[str, str]) -> str:
    lines = [f"{name}: {reason}" for name, reason in list(reasons.items())[:8]]
    return "\n  ".join(lines or ["no layer with weights"])

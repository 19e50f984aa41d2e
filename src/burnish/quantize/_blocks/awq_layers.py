"""AWQ over a network: which input channels can be scaled for nothing, and by how much.

The factors of a layer's inputs go, inverted, into what makes them: a layer norm, a linear layer
with nothing or a ReLU between, the value projection behind attention (`_smooth.groups`, whose
groups these are). The function of the float network stays. Where nothing can take them in, they
would cost a multiplication at run time: such layers are left at nearest, with the reason.

Moments are those of the float network: scaling changes no value of it, so that nothing that is
decided for one layer changes what another reads. One pass over the sample, one moment at a time.

Left out: `x @ matrix` products; factors through GELU and SiLU, which do not commute with them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import fx

from burnish.graph import Traced, operator_names
from burnish.quantize._blocks.awq import awq_scales
from burnish.quantize._blocks.hessian import Passage
from burnish.quantize._blocks.round import BlockSpec
from burnish.quantize._calibration.sample import Sample
from burnish.quantize._smooth.groups import Group, find_groups


@dataclass(frozen=True, eq=False)
class AwqGroup:
    """Layers that read one value, and the factors of its channels.

    Args:
        producer: the operator whose output channels are to be multiplied by `made`.
        readers: the linear layers whose input channels are to be multiplied by `scale`.
        scale: [channels of the value].
        made: [channels of the producer]: 1 / scale where a channel is one of the value's, else 1.
        alpha: the exponent that was best.
        error: the squared error of the readers' outputs with the factors, over that without.
        note: fewer rows than a second moment needs; "" where there were enough.
    """

    producer: str
    readers: tuple[str, ...]
    scale: torch.Tensor
    made: torch.Tensor
    alpha: float
    error: float
    note: str


@dataclass(frozen=True, eq=False)
class Awq:
    """The groups that gain, and the layers that are left at nearest, with reasons."""

    groups: tuple[AwqGroup, ...] = ()
    left: dict[str, str] = field(default_factory=dict)


def awq_groups(folded: Traced, sample: Sample, layers: Collection[str], spec: BlockSpec) -> Awq:
    """Choose the factors of a network.

    Args:
        folded: the float graph; its weights are shared and not written.
        sample: whole inputs of the network.
        layers: names of the linear layers and products that are to be stored in blocks.
        spec: bits and size of the blocks.

    Raises:
        InvalidInput: no data, or a layer that reads what is not finite.
    """
    passage = Passage(folded, sample, layers, "awq")
    call = next(iter(sample.batches()))
    groups, unfit = find_groups(folded, call)
    names = operator_names(folded.graph_module)
    left = dict.fromkeys(layers, "AWQ scales the inputs of linear layers only")
    left |= {names[node]: why for node, why in unfit.items() if names[node] in left}
    found = []
    free = {}
    for group in groups:
        readers = [names[node] for node in group.linears if names[node] in left]
        left |= dict.fromkeys(readers, f"its inputs cannot be scaled for nothing: {group.why}")
        if readers and group.into is not None:
            free[readers[0]] = (group, tuple(readers))
    for first in (stops[0] for stops in passage.groups() if stops[0] in free):
        group, chosen = free[first]
        made = _scaled(passage, group, chosen, spec, names)
        for name in chosen:
            left[name] = "no scaling of its inputs lowers its error"
        if made is not None:
            found.append(made)
            for name in chosen:
                del left[name]
    return Awq(tuple(found), {name: f"rounded to nearest: {why}" for name, why in left.items()})


def _scaled(
    passage: Passage,
    group: Group,
    readers: tuple[str, ...],
    spec: BlockSpec,
    names: dict[fx.Node, str],
) -> AwqGroup | None:
    """The best factors of a group; None where none are better than 1."""
    assert group.into is not None and group.origin is not None
    moment = passage.moment(readers)
    weight = torch.cat([passage.weight(name) for name in readers])
    best = awq_scales(weight, spec, moment.total, _joined(moment.magnitude, group.origin))
    if best.alpha == 0.0:
        return None
    made = torch.ones(int(group.into.meta["val"].shape[-1]))
    made[group.origin] = 1 / best.factor
    return AwqGroup(
        names[group.into],
        tuple(names[node] for node in group.linears),
        best.factor,
        made,
        best.alpha,
        best.error / best.error_off,
        moment.note,
    )


def _joined(magnitude: torch.Tensor, origin: torch.Tensor) -> torch.Tensor:
    """The mean over the channels that come from one channel of the producer, for each of them."""
    sums = torch.zeros(int(origin.max()) + 1).index_add_(0, origin, magnitude)
    counts = torch.bincount(origin, minlength=len(sums))
    return (sums / counts.clamp_min(1))[origin]

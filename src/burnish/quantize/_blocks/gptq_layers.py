"""GPTQ over a network: each layer rounded for what the layers before it, rounded, hand it.

A sample runs through the network once (`_hessian.Passage`). Before each layer, or before the layers
that read one value, their second moment is summed, their weights are rounded (`gptq`), one matrix
under the other, and the rounded weights take the places of the float ones for all that follows.
That is the order of the paper, whose layers read the outputs of quantized ones; against moments of
the float network it costs nothing, and errors do not pile up unseen. Weights are rounded against
their own float outputs on those inputs, as in the paper, not against the float network's.

Left out: layers whose weight another operator reads, too; they are rounded to nearest, once for
all. Transposing a part of an error to layers further on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch

from burnish.graph import Traced
from burnish.quantize._blocks.gptq import round_gptq
from burnish.quantize._blocks.hessian import Passage
from burnish.quantize._blocks.round import BlockSpec, Rounded, dequantize_rounded, round_nearest
from burnish.quantize._calibration.sample import Sample


@dataclass(frozen=True, eq=False)
class Decided:
    """What became of a layer: its integers, or None where it is to be rounded to nearest.

    `note` says why, or what the integers rest on.
    """

    layer: str
    rounded: Rounded | None
    note: str


def gptq_layers(
    folded: Traced,
    sample: Sample,
    layers: Collection[str],
    spec: BlockSpec,
    nearest: Collection[str] = (),
) -> Iterator[Decided]:
    """Round layers one after another, in the graph's order.

    Args:
        folded: the float graph; its weights are shared and not written.
        sample: whole inputs of the network.
        layers: names of linear layers and of `x @ stored matrix`.
        spec: bits and size of the blocks.
        nearest: names of other operators that are stored in blocks, rounded to nearest: what
            follows reads what they give, but for recurrent layers, which run in float here.

    Yields:
        Every one of `layers` once.

    Raises:
        InvalidInput: no data, or a layer that reads what is not finite.
    """
    passage = Passage(folded, sample, [*layers, *nearest], "gptq")
    wanted = set(layers)
    for group in passage.groups():
        own = tuple(name for name in group if name in wanted and not passage.shared(name))
        if own:
            yield from _rounded(passage, own, spec)
        for name in (name for name in group if name not in own and passage.replaceable(name)):
            passage.advance(group[0])
            passage.replace(name, _to_nearest(passage.weight(name), spec))
            if name in wanted:
                why = f"its {passage.shared(name)} is read by another operator, too"
                yield Decided(name, None, f"rounded to nearest: {why}")


def _rounded(passage: Passage, layers: tuple[str, ...], spec: BlockSpec) -> list[Decided]:
    moment = passage.moment(layers)
    weights = [passage.weight(name) for name in layers]
    sizes = [len(weight) for weight in weights]
    rounded = round_gptq(torch.cat(weights), spec, moment.total)
    matrices = dequantize_rounded(rounded, spec).split_with_sizes(sizes)
    found = []
    for name, part, matrix in zip(layers, _parts(rounded, sizes), matrices, strict=True):
        passage.replace(name, matrix)
        found.append(Decided(name, part, moment.note))
    return found


def _parts(rounded: Rounded, sizes: list[int]) -> list[Rounded]:
    codes, scales, zeros = rounded
    each = zip(codes.split_with_sizes(sizes), scales.split_with_sizes(sizes), strict=True)
    if zeros is None:
        return [(code, scale, None) for code, scale in each]
    return [(*pair, zero) for pair, zero in zip(each, zeros.split_with_sizes(sizes), strict=True)]


def _to_nearest(weight: torch.Tensor, spec: BlockSpec) -> torch.Tensor:
    return dequantize_rounded(round_nearest(weight.float(), spec), spec)

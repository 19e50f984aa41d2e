"""How much each single weight matters, by one criterion; more matters more.

`random`; `l1`, the magnitude (Han et al., 2015); `taylor`, |weight · gradient| (Molchanov et al.,
2017), and `hessian`, half of weight² · gradient² (LeCun et al., 1990), over batches; `wanda`, the
magnitude times the norm of the input it meets (Sun et al., 2024).

A random score is drawn in the order of the weights, so that a seed says it all.

Left out: movement, which is a training's (Sanh et al., 2020).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch

from burnish.errors import InvalidInput
from burnish.prune._weight_layers import Weight

Tensors = Mapping[str, torch.Tensor]
WITH_GRADIENTS = ("taylor", "hessian")
GONE = -math.inf  # the score of an entry that is masked already
CRITERIA = ("random", "l1", "wanda", *WITH_GRADIENTS)


def scores(
    weights: Sequence[Weight],
    criterion: str,
    *,
    gradients: Iterable[Tensors] = (),
    norms: Tensors | None = None,
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """A score for each entry of each weight, by its name, on the CPU.

    Raises:
        InvalidInput: data is needed and there is none.
    """
    found = _scored(weights, criterion, gradients, norms, seed)
    for weight in weights:
        if weight.mask is not None:  # what is gone stays gone, and counts
            found[weight.name][weight.mask.cpu() == 0] = GONE
    return found


def _scored(
    weights: Sequence[Weight],
    criterion: str,
    gradients: Iterable[Tensors],
    norms: Tensors | None,
    seed: int,
) -> dict[str, torch.Tensor]:
    if criterion in WITH_GRADIENTS:
        return _from_gradients(weights, criterion, gradients)
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for weight in weights:
        magnitude = weight.value.detach().abs().cpu()
        if criterion == "random":
            found[weight.name] = torch.rand(magnitude.shape, generator=generator)
        elif criterion == "l1" or weight.bias:
            found[weight.name] = magnitude
        else:
            if norms is None or weight.name not in norms:
                raise InvalidInput(f"criterion='wanda' needs data, and {weight.name!r} saw none")
            found[weight.name] = magnitude * norms[weight.name].to(magnitude).cpu()
    return found


def _from_gradients(
    weights: Sequence[Weight], criterion: str, gradients: Iterable[Tensors]
) -> dict[str, torch.Tensor]:
    found = {weight.name: torch.zeros(weight.value.shape) for weight in weights}
    batches = 0
    for gradient in gradients:
        batches += 1
        for weight in weights:
            own = gradient.get(weight.name, gradient.get(f"{weight.name}_orig"))
            if own is not None:
                product = (weight.value.detach() * own).cpu()
                found[weight.name] += product.abs() if criterion == "taylor" else product**2 / 2
    if not batches:
        raise InvalidInput(f"criterion={criterion!r} needs data, and there is no batch")
    return found

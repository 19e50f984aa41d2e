"""How much each single weight matters, by one criterion; more matters more.

`random`; `l1`, the magnitude (Han et al., 2015), and `l2`, its square: one order for single
weights, another for blocks; `taylor`, |weight · gradient| of the loss (Molchanov et al., 2017);
`wanda`, the magnitude times the norm of the input it meets (Sun et al., 2024). Two diagonals of a
Hessian, as half of weight² · gradient² (LeCun et al., 1990): `fisher` of the loss and its labels,
by the gradient of each batch, which for batches of one sample is the empirical Fisher information;
`hessian` of the outputs under random signs, which needs no label (`_gradients`).

A random score is drawn in the order of the weights, so that a seed says it all.

Elsewhere, since they train or update weights: `movement` (`_movement`), `sparsegpt`
(`_sparsegpt`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from burnish.errors import InvalidInput
from burnish.prune._pattern import GONE
from burnish.prune._weight_layers import Weight

Tensors = Mapping[str, torch.Tensor]
WITH_GRADIENTS = ("taylor", "fisher", "hessian")
WITH_LOSS = ("taylor", "fisher", "movement")
WITH_CALIBRATION = ("wanda", "hessian", "sparsegpt")
CRITERIA = ("random", "l1", "l2", *WITH_CALIBRATION, *WITH_LOSS)


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
        InvalidInput: data is needed and there is none, or a score is not finite.
    """
    found = _scored(weights, criterion, gradients, norms, seed)
    for name, score in found.items():
        if not bool(torch.isfinite(score).all()):
            raise InvalidInput(
                f"criterion={criterion!r}: scores of {name!r} are not finite: look for NaN or "
                "infinity in the weights and the data"
            )
    for weight in weights:
        if weight.mask is not None:  # what is gone stays gone, and counts
            found[weight.name][~weight.kept] = GONE
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
        elif criterion == "l2":
            found[weight.name] = magnitude.square()
        elif criterion == "l1" or weight.bias:
            found[weight.name] = magnitude
        else:
            if not norms:
                raise InvalidInput("criterion='wanda' needs data, and there is none")
            if weight.name not in norms:
                raise InvalidInput(
                    f"criterion='wanda': no call went through the layer of {weight.name!r}. Where "
                    "another module reads its weight (nn.MultiheadAttention does), prune the graph "
                    f"that graph.trace gives; else ignore=({weight.name!r},)"
                )
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

"""How much a channel matters: a score for each channel of each group, by one criterion.

A channel is many rows and columns of many tensors. A criterion gives each entry of a tensor a
number, and a channel's score is the sum over all its entries ("group importance", Fang et al.,
2023): the rows that make it and the columns that read it. What counts is the order within a group;
between groups, `allocate` divides by the group's mean.

From the weights alone: `random`, `l1`, `l2` (Li et al., 2017), `batch_norm` (|scale|; Liu et al.,
2017), `fpgm` (the sum of a filter's distances to its group's others; He et al., 2019), `lamp`
(squares, each divided by the sum of those that are no smaller; Lee et al., 2021).
With gradients of the loss: `taylor` (the square of what removing it changes the loss by, to first
order; Molchanov et al., 2019) and `fisher` (half of weight² · gradient², summed over the entries: a
diagonal Hessian with labels, by the gradient of each batch; for batches of one sample that is the
empirical Fisher information). Of the outputs under random signs, without loss or labels: `hessian`
(the same sum with the diagonal of the outputs' Gauss-Newton matrix; LeCun et al., 1990).
With inputs alone: `wanda` (each |weight| times the norm of the input it meets; Sun et al., 2024),
of convolutions and linear layers: a channel counts by what makes it and by how much of it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from burnish.errors import InvalidInput
from burnish.graph import ChannelGroup, Channels, Member

Array = npt.NDArray[np.float64]
Scores = dict[str, Array]
Tensors = Mapping[str, torch.Tensor]
FROM_WEIGHTS = ("random", "l1", "l2", "batch_norm", "fpgm", "lamp")
FROM_LOSS = ("taylor", "fisher")
FROM_GRADIENTS = (*FROM_LOSS, "hessian")
WITH_CALIBRATION = ("hessian", "wanda")
CRITERIA = (*FROM_WEIGHTS, *FROM_LOSS, *WITH_CALIBRATION)


def importance(
    channels: Channels,
    criterion: str,
    gradients: Iterable[Tensors] = (),
    seed: int = 0,
    norms: Tensors | None = None,
) -> Scores:
    """A score for each channel of the groups that may lose some; more matters more.

    Args:
        channels: the groups.
        criterion: a member of `CRITERIA`.
        gradients: of each batch, for the criteria that need them: for each parameter, by name.
        seed: of `random`.
        norms: for `wanda`, of the inputs of each weight, by its name, shaped to multiply it.

    Raises:
        InvalidInput: `batch_norm` where a group has none, `wanda` where no convolution or linear
            layer makes or reads a group, no data where it is needed, or data that is not finite.
    """
    parameters = channels.parameters()
    if criterion in FROM_GRADIENTS:
        found = _from_gradients(channels, parameters, criterion, gradients)
    elif criterion == "wanda":
        found = _from_norms(channels, parameters, norms)
    else:
        found = _from_weights(channels, parameters, criterion, seed)
    for name, scores in found.items():
        if not np.isfinite(scores).all():
            raise InvalidInput(
                f"criterion={criterion!r}: scores of the channels of {name!r} are not finite: look "
                "for NaN or infinity in the weights and the data"
            )
    return found


def _from_weights(channels: Channels, parameters: Tensors, criterion: str, seed: int) -> Scores:
    draw = np.random.default_rng(seed)
    found: Scores = {}
    for group in channels.free:
        if criterion == "random":
            found[group.name] = draw.random(group.num_channels)
        elif criterion == "batch_norm":
            found[group.name] = _scale(group, parameters)
        elif criterion == "fpgm":
            found[group.name] = _distances(group, parameters)
        else:
            total = _total(group, parameters, torch.abs if criterion == "l1" else torch.square, 2)
            found[group.name] = _against_larger(total) if criterion == "lamp" else total
    return found


def _from_gradients(
    channels: Channels, parameters: Tensors, criterion: str, gradients: Iterable[Tensors]
) -> Scores:
    """The mean over batches of what the first or the second order says a channel is worth."""
    found: Scores = {group.name: np.zeros(group.num_channels) for group in channels.free}
    batches = 0
    for gradient in gradients:
        batches += 1
        products = {
            name: parameter.detach() * gradient[name]
            for name, parameter in parameters.items()
            if name in gradient
        }
        for group in channels.free:
            if criterion == "taylor":
                found[group.name] += _total(group, products, lambda product: product, 1) ** 2
            else:
                found[group.name] += _total(group, products, torch.square, 1) / 2
    if not batches:
        raise InvalidInput(f"criterion={criterion!r} needs data, and there is no batch")
    return {name: total / batches for name, total in found.items()}


def _from_norms(channels: Channels, parameters: Tensors, norms: Tensors | None) -> Scores:
    """The sum over a channel's weights of |weight| times the norm of what it is multiplied with."""
    if not norms:
        raise InvalidInput("criterion='wanda' needs data, and there is no batch")
    products = {
        name: parameter.detach().abs() * norms[name].to(parameter)
        for name, parameter in parameters.items()
        if name in norms
    }
    found: Scores = {}
    for group in channels.free:
        if not any(member.tensor in products for member in group.members):
            raise InvalidInput(
                f"criterion='wanda': no convolution or linear layer makes or reads the channels of "
                f"{group.name!r}; take 'l2' or 'hessian'"
            )
        found[group.name] = _total(group, products, lambda product: product, 2)
    return found


def _total(
    group: ChannelGroup,
    tensors: Tensors,
    each: Callable[[torch.Tensor], torch.Tensor],
    least: int,
) -> Array:
    """The sum of a function of each entry over a channel's rows and columns.

    `least`: axes a tensor must have to count: 2 leaves biases and norms out.
    """
    total = np.zeros(group.num_channels)
    for member in group.members:
        tensor = tensors.get(member.tensor)
        if tensor is not None and tensor.dim() >= least:
            total += _by_position(each(tensor.detach().double()), member)
    return total


def _by_position(values: torch.Tensor, member: Member) -> Array:
    """Sums over all but the member's axis, then over each channel's positions."""
    sums = values.movedim(member.axis, 0).flatten(1).sum(1) if values.dim() > 1 else values
    found: Array = sums.cpu().numpy()[member.positions].sum(1)
    return found


def _scale(group: ChannelGroup, parameters: Tensors) -> Array:
    """The mean |scale| of the group's normalisations: tensors of one axis that are no bias."""
    scales = [
        _by_position(parameters[member.tensor].detach().double().abs(), member)
        for member in group.members
        if member.tensor in parameters
        and parameters[member.tensor].dim() == 1
        and member.tensor.endswith("weight")
    ]
    if not scales:
        raise InvalidInput(
            f"criterion='batch_norm': no normalisation scales the channels of {group.name!r}; take "
            "'l2', or leave that layer out with ignore="
        )
    found: Array = np.mean(scales, axis=0)
    return found


def _distances(group: ChannelGroup, parameters: Tensors) -> Array:
    """For each channel the sum of the distances of its rows to those of the others."""
    rows = []
    for member in group.members:
        tensor = parameters.get(member.tensor)
        if tensor is not None and tensor.dim() >= 2 and member.axis == 0:
            values = tensor.detach().double().flatten(1)[torch.from_numpy(member.positions)]
            rows.append(values.flatten(1))
    if not rows:
        return np.zeros(group.num_channels)
    together = torch.cat(rows, 1)
    found: Array = torch.cdist(together, together).sum(1).cpu().numpy()
    return found


def _against_larger(squares: Array) -> Array:
    """Each square divided by the sum of all that are no smaller, itself among them."""
    order = np.argsort(squares, kind="stable")
    rest = np.cumsum(squares[order][::-1])[::-1]
    found = np.empty_like(squares)
    found[order] = squares[order] / np.maximum(rest, np.finfo(np.float64).tiny)
    return found


def check_criterion(who: str, criterion: Any) -> None:
    """InvalidInput for a criterion that is not known."""
    if criterion not in CRITERIA:
        raise InvalidInput(f"{who}(criterion={criterion!r}): one of {', '.join(CRITERIA)}")

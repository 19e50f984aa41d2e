"""A penalty that makes channels unequal while a model trains: the ones to be removed fade first.

    the groups of coupled channels → the norm of each channel, over all tensors it lies on → a sum

A channel's norm runs over every entry that `PruneChannels(criterion="l2")` scores it by: the rows
that make it and the columns that read it, in every weight of two axes or more. Biases and the
scales of normalisations are left out of both.

`lasso` (Yuan and Lin, 2006; on channels, Wen et al., 2016): the sum of the norms, each times the
root of its number of entries. So an entry is drawn to zero with about the same force in a wide
layer and in a narrow one, and `strength` is that force. `norm` (Fang et al., 2023): the sum of the
squared norms, each times 2^(4 · how far it is from the group's largest, from 0 to 1): the least
channel of a group is drawn sixteen times as hard as the largest. The weights of the squares follow
the norms as they are and take no gradient, so the penalty depends on the model alone, and a
training that is resumed goes on as it was. With growth="linear" the strength grows from 0 to its
full value over the training: growing regularization (Wang, Qin, Zhang and Fu, 2021).

At zero a norm has no gradient; 0 is taken, which is one of its subgradients: what is gone stays.

Left out: penalties on the scales of batch-norm (Liu et al., 2017), where a group has one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from burnish.core import settings_of
from burnish.errors import InvalidInput, NoEffect
from burnish.goal import Inputs
from burnish.graph import ChannelGroup, Channels, Traced, channel_groups
from burnish.prune._channels import free_groups, ignored_groups
from burnish.prune._given import traced_for
from burnish.prune._report import ONE_CHANNEL, SINGLE
from burnish.prune._settings import check_words, settle_ignore

KINDS = ("lasso", "norm")
GROWTHS = ("constant", "linear")
_STEEPNESS = 4.0  # Fang et al.'s alpha


@dataclass(frozen=True, eq=False)
class Lying:
    """Where a group's channels lie on an axis of a weight: positions [channels, times]."""

    weight: str
    axis: int
    positions: torch.Tensor


@dataclass(frozen=True)
class GroupPenalty:
    """The settings of a penalty; `on` makes the function of a model.

    Args:
        strength: above 0. With "lasso" the force on an entry, as of an l1 penalty; with "norm" a
            group's largest channel sees a weight decay of twice the strength, its least of 32
            times.
        kind: "lasso" (Wen et al., 2016) or "norm" (Fang et al., 2023).
        growth: "constant", or "linear" from 0 up to the strength (Wang et al., 2021).
        heads, ignore: as of `PruneChannels`.

    Raises:
        InvalidInput: a setting out of range.
    """

    strength: float
    kind: str = "lasso"
    growth: str = "constant"
    heads: str = "whole"
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (self.strength > 0 and math.isfinite(self.strength)):
            raise InvalidInput(f"GroupPenalty(strength={self.strength!r}): a finite number above 0")
        check_words(self, {"kind": KINDS, "growth": GROWTHS, "heads": ("whole", "width")})
        settle_ignore(self)

    def on(self, model: nn.Module, example: Any) -> PenaltyOn:
        """The penalty on the groups of a model. Arguments and errors as of `group_penalty`."""
        traced = traced_for(model, Inputs.of(example))
        channels = channel_groups(traced, self.heads)  # type: ignore[arg-type]
        ignored = ignored_groups(channels, self.ignore)
        parameters = channels.parameters()
        groups = {
            group.name: places
            for group in free_groups(channels, ignored)
            if (places := _lying(group, parameters))
        }
        if not groups:
            raise NoEffect("GroupPenalty: no weight of two axes or more has channels that may go")
        drawn = [layer for group in channels if group.name in groups for layer in group.layers]
        left = _left(channels, ignored, groups)
        return PenaltyOn(self, groups, tuple(dict.fromkeys(drawn)), left)


@dataclass(frozen=True, eq=False)
class PenaltyOn:
    """A function of a model: of the module whose channels it was made for, or of its graph.

    Args:
        given: the settings.
        groups: by name, where their channels lie.
        layers: those that make these channels.
        left: why other layers are left alone, by name.
    """

    given: GroupPenalty
    groups: Mapping[str, tuple[Lying, ...]]
    layers: tuple[str, ...]
    left: Mapping[str, str]

    def __call__(self, model: nn.Module) -> torch.Tensor:
        """The penalty at full strength, a scalar. InvalidInput for another model."""
        return self._at(model, self.given.strength)

    def at(self, progress: float) -> Callable[[nn.Module], torch.Tensor]:
        """The penalty at a point of the training, from 0 at its begin to 1 at its end."""
        strength = self.given.strength * (progress if self.given.growth == "linear" else 1.0)
        return lambda model: self._at(model, strength)

    def settings(self) -> dict[str, Any]:
        """What is added to the loss, as plain JSON."""
        return {**settings_of(self.given), "groups": sorted(self.groups)}

    def norms(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """The norm of each channel of each group, [channels]."""
        return {name: _root(squares) for name, squares in self._squares(model).items()}

    def _at(self, model: nn.Module, strength: float) -> torch.Tensor:
        terms = []
        squared = self._squares(model)
        for name, squares in squared.items():
            if self.given.kind == "lasso":
                terms.append(math.sqrt(self._num_entries(model, name)) * _root(squares).sum())
            else:
                terms.append((_unimportance(squares.detach()) * squares).sum())
        return strength * torch.stack(terms).sum()

    def _squares(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """The squared norms of each group."""
        found = {}
        entries: dict[str, torch.Tensor] = {}
        for name, places in self.groups.items():
            total = None
            for place in places:
                if place.weight not in entries:
                    entries[place.weight] = _weight(model, place.weight).square()
                values = entries[place.weight].movedim(place.axis, 0).flatten(1).sum(1)
                squares = values[place.positions].sum(1)
                total = squares if total is None else total + squares
            assert total is not None
            found[name] = total
        return found

    def _num_entries(self, model: nn.Module, name: str) -> int:
        """How many entries one channel of a group has."""
        return sum(
            place.positions.shape[1] * _weight(model, place.weight).select(place.axis, 0).numel()
            for place in self.groups[name]
        )


def group_penalty(model: nn.Module, example: Any, strength: float, **settings: Any) -> PenaltyOn:
    """A penalty for `train.fit(regularizer=…)` on the groups of channels of a model.

    Args:
        model: a module, or a traced graph; left as it was.
        example: an example call: a tensor, a tuple of arguments, a dict of keyword ones, `Inputs`.
        strength: as of `GroupPenalty`.
        settings: the others of `GroupPenalty`.

    Returns:
        A function of the model whose value is the penalty, a scalar; `norms(model)` are those of
        the channels, `left` says which layers are left alone, and why.

    Raises:
        InvalidInput: a setting out of range.
        NoEffect: no group may lose a channel.
        Unsupported: the model cannot be exported.
    """
    return GroupPenalty(strength, **settings).on(model, example)


def _lying(group: ChannelGroup, parameters: Mapping[str, torch.Tensor]) -> tuple[Lying, ...]:
    return tuple(
        Lying(
            member.tensor.removeprefix("model."),
            member.axis,
            torch.from_numpy(member.positions),
        )
        for member in group.members
        if member.tensor in parameters and parameters[member.tensor].dim() >= 2
    )


def _left(
    channels: Channels, ignored: Mapping[str, str], groups: Mapping[str, Any]
) -> dict[str, str]:
    found = dict.fromkeys(channels.single, SINGLE)
    for group in channels:
        if group.name not in groups:
            reason = group.frozen or ignored.get(group.name)
            if reason is None:
                reason = ONE_CHANNEL if group.num_channels == 1 else "no weight of two axes has it"
            found |= dict.fromkeys(group.layers, reason)
    return found


def _weight(model: nn.Module, name: str) -> torch.Tensor:
    """A weight by the name it has in the module; in its graph that hangs under "model"."""
    if isinstance(model, Traced):
        return _weight(model.graph_module, f"model.{name}")
    path, _, leaf = name.rpartition(".")
    try:
        value = getattr(model.get_submodule(path), leaf)
    except AttributeError as error:
        raise InvalidInput(
            f"this penalty is on the weight {name!r}, which the model does not have: make one for "
            "this model, group_penalty(model, example, …)"
        ) from error
    assert isinstance(value, torch.Tensor)
    return value


def _root(squares: torch.Tensor) -> torch.Tensor:
    """The root, with gradient 0 at 0; a root of zero alone would make that NaN."""
    zero = squares == 0
    return squares.masked_fill(zero, 1.0).sqrt().masked_fill(zero, 0.0)


def _unimportance(squares: torch.Tensor) -> torch.Tensor:
    """2^(4 · distance from the largest norm, from 0 to 1 within the group)."""
    norms = squares.sqrt()
    spread = (norms.max() - norms.min()).clamp_min(torch.finfo(norms.dtype).tiny)
    weights: torch.Tensor = torch.exp2(_STEEPNESS * (norms.max() - norms) / spread)
    return weights

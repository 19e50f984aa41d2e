"""How many channels each group loses: the same share of each, or by rank across groups.

`uniform`: every group loses the same share, its least important first. `global`: all channels of
all groups stand in one order. Scores of different groups do not compare as they are (a wide group's
are smaller), so each is divided by its group's mean first. `isomorphic`: the share is the same
for all kinds of groups, but within a kind (groups made and read by the same kinds of layers) there
is one order (Fang et al., 2024).

The share asked for may be one of channels, or of what they cost: parameters, bytes or MACs. Then
the smallest share of channels is looked for that saves it: what is removed only grows with the
share, so halving the interval finds it.

Counts that are kept are rounded up to a multiple where one is asked for. No group loses its last
channel.

Left out: shares solved for measured errors and measured times (`_target`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from burnish.errors import Infeasible
from burnish.graph import ChannelGroup, Channels
from burnish.prune._cost import COSTS, cost_of
from burnish.prune._importance import Array, Scores

SCOPES = ("uniform", "global", "isomorphic")
SHARES = ("channels", *COSTS)
Removed = dict[str, list[int]]
_HALVINGS = 30


@dataclass(frozen=True)
class Asked:
    """How much to remove, of what, ranked how, kept counts a multiple of what."""

    ratio: float
    of: str
    scope: str
    round_to: int


def allocate(
    channels: Channels, groups: Iterable[ChannelGroup], scores: Scores, asked: Asked
) -> Removed:
    """The channels each of `groups` loses, by number; none for a group that loses none.

    Raises:
        Infeasible: with one channel left in every group more would still be left than asked for;
            `result` is the share that can be saved.
    """
    chosen = tuple(groups)
    rank = _ranked(chosen, scores, asked.scope)

    def removed(share: float) -> Removed:
        found = {
            group.name: _fewest(group, scores[group.name], rank(share)[group.name], asked.round_to)
            for group in chosen
        }
        return {name: numbers for name, numbers in found.items() if numbers}

    if asked.of == "channels":
        return removed(asked.ratio)
    return _solved(channels, removed, asked)


def saved_share(
    channels: Channels, groups: Iterable[ChannelGroup], removed: Removed, of: str
) -> float:
    """The share that removing these really saves; of channels, a share of those of `groups`."""
    if of == "channels":
        num = sum(group.num_channels for group in groups)
        return sum(len(numbers) for numbers in removed.values()) / num
    cost = cost_of(channels, of)
    return 1 - cost.at(channels.alive(removed)) / cost.at(channels.alive({}))


def _solved(channels: Channels, removed: Callable[[float], Removed], asked: Asked) -> Removed:
    """The smallest share of channels that saves the share of the cost asked for."""
    cost = cost_of(channels, asked.of)
    whole = cost.at(channels.alive({}))

    def saved(share: float) -> float:
        return 1 - cost.at(channels.alive(removed(share))) / whole

    most = saved(1.0)
    if most < asked.ratio:
        raise Infeasible(
            f"ratio={asked.ratio:g} of the {asked.of} cannot be removed: with one channel left in "
            f"every group that may lose some, {most:.3f} is saved; the rest must stay",
            result=most,
        )
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if saved(middle) >= asked.ratio else (middle, high)
    return removed(high)


def _ranked(
    groups: tuple[ChannelGroup, ...], scores: Scores, scope: str
) -> Callable[[float], Mapping[str, int]]:
    """For a share of all channels how many each group loses."""
    kinds: dict[object, list[ChannelGroup]] = {}
    for group in groups:
        kind = {"uniform": group.name, "global": None}.get(scope, _kind(group))
        kinds.setdefault(kind, []).append(group)
    orders = [
        (alike, np.sort(np.concatenate([_relative(scores[g.name]) for g in alike])))
        for alike in kinds.values()
    ]

    def counts(share: float) -> dict[str, int]:
        found = {}
        for alike, order in orders:
            number = round(share * len(order))
            for group in alike:
                if len(alike) == 1:
                    found[group.name] = number
                    continue
                least = order[number] if number < len(order) else np.inf
                found[group.name] = int((_relative(scores[group.name]) < least).sum())
        return found

    return counts


def _relative(scores: Array) -> Array:
    """Scores as multiples of their mean."""
    mean = scores.mean()
    return scores / mean if mean > 0 else scores


def _kind(group: ChannelGroup) -> tuple[object, ...]:
    """What a group is made of: the kinds of its layers, how many, on which axes."""
    layers = sorted(name.rpartition(":")[2].partition("#")[0] for name in group.layers)
    return (*layers, *sorted((m.axis, m.positions.shape[1]) for m in group.members))


def _fewest(group: ChannelGroup, scores: Array, number: int, round_to: int) -> list[int]:
    """The numbers of the least important channels, so that the kept count is a multiple."""
    kept = max(group.num_channels - number, 1)
    kept = min(-(-kept // round_to) * round_to, group.num_channels)
    order = np.argsort(scores, kind="stable")
    return sorted(order[: group.num_channels - kept].tolist())

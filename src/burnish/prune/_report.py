"""What became of each layer's channels: a row for each, with the reason where none went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from burnish.core import Choices
from burnish.graph import ChannelGroup, Channels

PRUNED, KEPT, FROZEN = "pruned", "kept", "frozen"
ONE_CHANNEL = "its channels come and go together: there is one thing to remove, and one must stay"
SINGLE = "it has one channel"


@dataclass(frozen=True)
class LayerChannels:
    """A layer's channels in one group, before and after.

    `state`: "pruned", "kept" (it could have lost some) or "frozen" (it could not), with the reason.
    """

    layer: str
    group: str
    before: int
    after: int
    state: str
    reason: str


def rows(
    channels: Channels,
    ignored: Mapping[str, str],
    removed: Mapping[str, Sequence[int]],
) -> list[dict[str, Any]]:
    """The table as plain JSON; `ignored`: why groups were left alone, by name."""
    found = []
    for group in channels:
        lost = len(removed.get(group.name, ()))
        state, reason = _state(group, ignored.get(group.name), lost)
        for layer in group.layers:
            num = group.num_channels
            found.append(LayerChannels(layer, group.name, num, num - lost, state, reason))
    found += [LayerChannels(layer, layer, 1, 1, FROZEN, SINGLE) for layer in channels.single]
    return [asdict(row) for row in found]


def _state(group: ChannelGroup, ignored: str | None, lost: int) -> tuple[str, str]:
    if group.frozen is not None:
        return FROZEN, group.frozen
    if ignored is not None:
        return FROZEN, ignored
    if group.num_channels == 1:
        return FROZEN, ONE_CHANNEL
    if lost:
        return PRUNED, ""
    return KEPT, "the share asked for leaves it all of its channels"


def pruned_layers(choices: Choices) -> tuple[LayerChannels, ...]:
    """The table of a pruning: every layer's channels, from and to, or why none went."""
    return tuple(LayerChannels(**row) for row in choices.plan["layers"])

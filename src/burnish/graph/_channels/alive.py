"""Which ids live once some channels of some groups are gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from burnish.errors import InvalidInput
from burnish.graph._channels.groups import Channels

Alive = npt.NDArray[np.bool_]


def alive_after(channels: Channels, removed: Mapping[str, Sequence[int]]) -> Alive:
    """For each id whether it lives, once the numbered channels of the named groups are gone.

    Raises:
        InvalidInput: no such group or channel, a group that must stay, or nothing left of one.
    """
    groups = {group.name: group for group in channels}
    alive = np.ones(len(channels.settled.class_of), bool)
    dead: set[int] = set()
    for name, numbers in removed.items():
        if name not in groups:
            known = ", ".join(group.name for group in channels.free) or "none"
            raise InvalidInput(f"no group of channels is called {name!r}; there are: {known}")
        group = groups[name]
        if not len(numbers):
            continue
        if group.frozen is not None:
            raise InvalidInput(f"the channels of {name!r} must stay: {group.frozen}")
        wrong = [n for n in numbers if not 0 <= n < group.num_channels]
        if wrong or len(set(numbers)) != len(numbers):
            raise InvalidInput(
                f"{name!r} has channels 0 to {group.num_channels - 1}; to be removed: "
                f"{list(numbers)}"
            )
        if len(numbers) == group.num_channels:
            raise InvalidInput(
                f"all {group.num_channels} channels of {name!r} would be removed: one must stay"
            )
        dead.update(channels.classes[name][list(numbers)].tolist())
    if dead:
        alive = ~np.isin(channels.settled.class_of, np.fromiter(dead, np.int64))
    return alive

"""What narrowing each group and dropping each block does to the outputs, measured one at a time.

For each group that may lose channels: some widths, and the error of the outputs when it alone is
cut to each, its least important channels first; for each residual block the error without it. The
outputs of a cut graph are those of the masked one, so cutting is also the cheaper way to look.

Every second width is measured; between two, and beyond the last, the error is read off the line
through them, share removed against error, both in logarithms.

Left out: what two cuts do together.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from burnish.errors import NoEffect
from burnish.goal import Call
from burnish.graph import ChannelGroup, Channels, shrink_channels
from burnish.prune._depth import Skipping
from burnish.prune._distance import Reference, reference
from burnish.prune._importance import Scores
from burnish.prune._residual import ResidualBlock

NUM_LEVELS = 8
_LEAST = 1e-12  # an error nobody could see, for the logarithm


@dataclass(frozen=True, eq=False)
class Widths:
    """A group's widths, from all of it down, and the error of the outputs at each.

    `order` are its channels, the least important first: at a width those that are too many go.
    """

    kept: tuple[int, ...]
    errors: tuple[float, ...]
    order: tuple[int, ...]

    def removed(self, level: int) -> list[int]:
        """The channels that go."""
        return sorted(self.order[: self.kept[0] - self.kept[level]])


@dataclass(frozen=True, eq=False)
class PruningSurvey:
    """The groups' widths by group, the blocks' errors by block, and what both were found in.

    `ignored`: why groups and blocks have no choice, by name.
    """

    channels: Channels
    blocks: tuple[ResidualBlock, ...]
    widths: Mapping[str, Widths]
    drops: Mapping[str, float]
    ignored: Mapping[str, str]

    def removed(self, levels: Mapping[str, int]) -> dict[str, list[int]]:
        """The channels that each group loses at its level; none for a group that loses none."""
        found = {name: self.widths[name].removed(level) for name, level in levels.items()}
        return {name: numbers for name, numbers in found.items() if numbers}


def survey(
    channels: Channels,
    groups: Iterable[ChannelGroup],
    blocks: Sequence[ResidualBlock],
    scores: Scores,
    calls: Iterable[Call],
    ignored: Mapping[str, str],
    round_to: int = 1,
) -> PruningSurvey:
    """Measure the groups' widths, multiples of `round_to`, and the blocks.

    `ignored`: why others than `groups` and `blocks` have no choice, by name.

    Raises:
        InvalidInput: no calls.
        NoEffect: nothing to choose from.
    """
    traced = channels.traced
    truth = reference(traced, calls, "PruneTo")
    widths, without = {}, dict(ignored)
    for group in groups:
        kept = levels_of(group.num_channels, round_to)
        if len(kept) > 1:
            order = tuple(np.argsort(scores[group.name], kind="stable").tolist())
            widths[group.name] = _widths(channels, group.name, kept, order, truth)
        else:
            without[group.name] = f"no narrower width is a multiple of {round_to}"
    drops = {block.name: truth.error(Skipping(traced, [block]).run) for block in blocks}
    if not widths and not drops:
        raise NoEffect(
            f"there is nothing to choose from: no group has two widths that are multiples of "
            f"{round_to}, and no residual block may go"
        )
    return PruningSurvey(channels, tuple(blocks), widths, drops, without)


def levels_of(num: int, round_to: int) -> tuple[int, ...]:
    """At most `NUM_LEVELS` widths from `num` down, multiples of `round_to` but for the first."""
    shares = [num * (NUM_LEVELS - step) / NUM_LEVELS for step in range(1, NUM_LEVELS)]
    rounded = {max(round_to, round(share / round_to) * round_to) for share in shares}
    return (num, *sorted((width for width in rounded if width < num), reverse=True))


def separate(blocks: Sequence[ResidualBlock]) -> tuple[ResidualBlock, ...]:
    """Those of some blocks that hold none of the others."""
    return tuple(b for b in blocks if not any(a is not b and a.nodes < b.nodes for a in blocks))


def _widths(
    channels: Channels, name: str, kept: tuple[int, ...], order: tuple[int, ...], truth: Reference
) -> Widths:
    """Every second level measured, the last among them, the others read off."""
    measured = sorted({*range(2, len(kept), 2), len(kept) - 1} - {0})
    found = {}
    for level in measured:
        numbers = sorted(order[: kept[0] - kept[level]])
        small = shrink_channels(channels, {name: numbers})
        found[level] = max(truth.error(small.graph_module), _LEAST)
    shares = {level: 1 - kept[level] / kept[0] for level in range(1, len(kept))}
    known = np.log([shares[level] for level in measured])
    values = np.log([found[level] for level in measured])
    errors = [0.0]
    for level in range(1, len(kept)):
        at = np.log(shares[level])
        if at < known[0]:
            # Narrowing by little: the error of small changes is as their square.
            errors.append(float(np.exp(values[0] + 2 * (at - known[0]))))
        else:
            errors.append(float(np.exp(np.interp(at, known, values))))
    # More removed is never better: what says otherwise is chance.
    return Widths(kept, tuple(itertools.accumulate(errors, max)), order)

"""What a machine was found able to do, as its probe wrote it down."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from burnish.report._node import Node


@dataclass(frozen=True)
class Peak:
    """The most multiply-accumulates a second (10^9) a runtime reached in a number format."""

    runtime: str
    dtype: str
    gmacs: float | None
    low: float | None
    high: float | None
    reliable: bool
    note: str | None


@dataclass(frozen=True)
class Level:
    """A level of memory: bytes it holds, and GB/s it gives."""

    name: str
    num_bytes: int | None
    gb_per_s: float | None
    reliable: bool


@dataclass(frozen=True)
class Dispatch:
    """Seconds a runtime spends on an operator before it computes anything."""

    runtime: str
    seconds: float | None
    reliable: bool


@dataclass(frozen=True)
class Capability:
    """What a runtime does with a number format here: "native", "converted", "emulated", "refused".

    `speed` is its rate over that of float32.
    """

    runtime: str
    dtype: str
    state: str | None
    how: str | None
    speed: float | None
    reason: str | None


@dataclass(frozen=True)
class Probe:
    """Peaks, bandwidths, what dispatch costs, capabilities, and what to know of them."""

    created: str | None
    threads: int | None
    masks: Mapping[str, str]
    peaks: tuple[Peak, ...]
    bandwidth: tuple[Level, ...]
    dispatch: tuple[Dispatch, ...]
    capabilities: tuple[Capability, ...]
    notes: tuple[str, ...]

    def peaks_of(self, runtime: str) -> tuple[Peak, ...]:
        """The peaks of a runtime that are known."""
        return tuple(
            one
            for one in self.peaks
            if one.runtime == runtime and one.gmacs and 0 < one.gmacs < math.inf
        )


def probe(node: Node | None) -> Probe | None:
    """Read a probe, if there is one; Damaged where a value is of the wrong type."""
    if node is None:
        return None
    return Probe(
        created=node.text("created"),
        threads=node.whole("threads"),
        masks=node.named("masks"),
        peaks=tuple(_peak(one) for one in node.children("peaks")),
        bandwidth=tuple(
            Level(
                one.needed("level"),
                one.whole("bytes"),
                one.number("gb_per_s"),
                one.flag("reliable"),
            )
            for one in node.children("bandwidth")
        ),
        dispatch=tuple(
            Dispatch(one.needed("runtime"), one.number("seconds"), one.flag("reliable"))
            for one in node.children("dispatch")
        ),
        capabilities=tuple(_capability(one) for one in node.children("capabilities")),
        notes=node.texts("notes"),
    )


def _peak(node: Node) -> Peak:
    return Peak(
        runtime=node.needed("runtime"),
        dtype=node.needed("dtype"),
        gmacs=node.number("gmacs"),
        low=node.number("low"),
        high=node.number("high"),
        reliable=node.flag("reliable"),
        note=node.text("note"),
    )


def _capability(node: Node) -> Capability:
    return Capability(
        runtime=node.needed("runtime"),
        dtype=node.needed("dtype"),
        state=node.text("state"),
        how=node.text("how"),
        speed=node.number("speed"),
        reason=node.text("reason"),
    )

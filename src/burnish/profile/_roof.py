"""How near an operator comes to what the machine can do, and what holds it back.

The roofline model (Williams, Waterman, Patterson, 2009): an operator takes at least the time of its
multiply-accumulates at the peak rate, and at least the time of its bytes at the bandwidth of the
memory that holds them; whichever is longer bounds it. A third bound stands beside the two on a
CPU with small models: what a runtime spends on any operator before it computes anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from burnish.errors import Damaged
from burnish.profile._probe import Probe

Limit = Literal["compute", "memory", "overhead"]
LIMITS: tuple[Limit, ...] = ("compute", "memory", "overhead")


@dataclass(frozen=True)
class Roof:
    """`share_of_peak` is the least possible time over the time it took: 1 is as fast as it gets.

    Above 1 where data was still in a nearer cache than its size lets one expect. None where that
    was not measured. `bound` names which of the three times is the longest.
    """

    share_of_peak: float | None
    bound: Limit | None

    def to_json(self) -> dict[str, Any]:
        """A plain dict; `Roof.from_json` is its inverse."""
        return {"share_of_peak": self.share_of_peak, "bound": self.bound}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Roof:
        """Read back what `to_json` wrote. Raises `Damaged` when it is something else."""
        try:
            share, bound = record["share_of_peak"], record["bound"]
        except (TypeError, KeyError) as error:
            raise Damaged(f"this is no record of a roof ({error})") from None
        if bound not in (*LIMITS, None):
            raise Damaged(f"this is no record of a roof (bound {bound!r})")
        return cls(share, bound)


def roof(macs: int, num_bytes: int, seconds: float | None, probe: Probe, runtime: str) -> Roof:
    """Where an operator stands under the roof of a runtime on the probed machine, in float32.

    Args:
        macs: its multiply-accumulates.
        num_bytes: what it reads and writes.
        seconds: the time it took; None or 0 where none was seen.
        probe: what was measured of the machine.
        runtime: whose kernels computed it.
    """
    peak, bandwidth = probe.peak(runtime, "float32"), probe.bandwidth(num_bytes)
    if not peak or not bandwidth:
        return Roof(None, None)
    computing, moving = macs / peak, num_bytes / bandwidth
    overhead = probe.dispatch(runtime) or 0.0
    if overhead > max(computing, moving):
        bound: Limit = "overhead"
    else:
        bound = "compute" if computing >= moving else "memory"
    return Roof(max(computing, moving) / seconds if seconds else None, bound)

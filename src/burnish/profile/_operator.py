"""One operator of a profile: what it holds and moves, and its time in each runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from burnish.errors import Damaged
from burnish.profile._count import Counted
from burnish.profile._roof import Roof


@dataclass(frozen=True)
class Operator:
    """One operator.

    Attributes:
        name: "layer1.0.conv1:conv2d".
        module: the path of the user's module it belongs to; "" for the model itself.
        kind: torch's name of the operator.
        macs: multiply-accumulates; None where the operator is not known.
        num_parameters: parameters it reads that no operator before it has read.
        weight_bytes: bytes of constants it reads.
        input_bytes: bytes of activations it reads.
        output_bytes: bytes it writes.
        seconds: by runtime, its kernel's time; of a kernel that computes several operators all of
            it stands with the one that gives it its name, and None with those inside.
        fused_into: by runtime, the operator whose kernel computes this one; None where it has one
            of its own, or none was seen.
        roofline: by runtime, where it stands under the machine's roof, with all that its kernel
            computes; None without a probe.
    """

    name: str
    module: str
    kind: str
    macs: int | None
    num_parameters: int
    weight_bytes: int
    input_bytes: int
    output_bytes: int
    seconds: Mapping[str, float | None] = field(default_factory=dict)
    fused_into: Mapping[str, str | None] = field(default_factory=dict)
    roofline: Mapping[str, Roof | None] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        counted: Counted,
        *,
        seconds: Mapping[str, float | None],
        fused_into: Mapping[str, str | None],
        roofline: Mapping[str, Roof | None],
    ) -> Operator:
        """What was counted of an operator with what was timed of it."""
        return cls(
            counted.name,
            counted.module,
            counted.kind,
            counted.macs,
            counted.num_parameters,
            counted.weight_bytes,
            counted.input_bytes,
            counted.output_bytes,
            seconds,
            fused_into,
            roofline,
        )

    @property
    def num_bytes(self) -> int:
        """All that it reads and writes."""
        return self.weight_bytes + self.input_bytes + self.output_bytes

    @property
    def intensity(self) -> float | None:
        """Multiply-accumulates per byte; None where it is not known or nothing moves."""
        return self.macs / self.num_bytes if self.macs is not None and self.num_bytes else None

    def to_json(self) -> dict[str, Any]:
        """A plain dict; `Operator.from_json` is its inverse."""
        record = dict(vars(self))
        record["seconds"] = dict(self.seconds)
        record["fused_into"] = dict(self.fused_into)
        record["roofline"] = {
            name: None if roof is None else roof.to_json() for name, roof in self.roofline.items()
        }
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Operator:
        """Read back what `to_json` wrote. Raises `Damaged` when it is something else."""
        try:
            roofline = {
                name: None if roof is None else Roof.from_json(roof)
                for name, roof in record["roofline"].items()
            }
            return cls(**{**record, "roofline": roofline})
        except (TypeError, KeyError, AttributeError) as error:
            raise Damaged(f"this is no record of an operator ({error})") from None

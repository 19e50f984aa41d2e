"""What placement tells: the quantized values, and one row for every float operator.

Left out: how it came about; that is `place`.
"""

from __future__ import annotations

from dataclasses import dataclass

from burnish.core import Choices

INT8, FUSED, PASSES, FLOAT = "int8", "fused", "passes through", "float"


@dataclass(frozen=True)
class Coverage:
    """One row of the coverage table."""

    operator: str
    kind: str
    state: str
    reason: str


@dataclass(frozen=True)
class Placement:
    """Which values are quantized, which share a scale, and what became of every operator.

    `quantizers` maps a value (by its operator's name) to the readers that see it quantized, None
    for all. `groups` maps a value to the first value of the group whose scale it shares.
    """

    quantizers: dict[str, tuple[str, ...] | None]
    groups: dict[str, str]
    coverage: tuple[Coverage, ...]

    def int8(self) -> tuple[str, ...]:
        """The operators that run in int8."""
        return tuple(row.operator for row in self.coverage if row.state == INT8)


def coverage(choices: Choices) -> tuple[Coverage, ...]:
    """The coverage table of a quantization: every float operator's state and reason."""
    return tuple(Coverage(**row) for row in choices.plan["coverage"])

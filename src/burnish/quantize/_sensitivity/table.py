"""The table of sensitivities: frozen rows, as JSON and as text.

Left out: charts; the report draws them from the JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from burnish.errors import Damaged, InvalidInput

SCHEMA = 1


@dataclass(frozen=True)
class SensitivityRow:
    """One operator of the table.

    `output_error` is the squared error of the model's outputs when only this operator is quantized,
    as a share of their power (with a loss, the change of the loss to first order). `metric_change`
    is the mean score then less the float model's; None without a score. `weight_error` and
    `activation_error` are squared errors of the operator's own result, as shares of its power, when
    only its weights, or only its inputs and output, are quantized.
    """

    operator: str
    kind: str
    output_error: float
    metric_change: float | None
    weight_error: float
    activation_error: float


@dataclass(frozen=True)
class Sensitivity:
    """A row for each quantized operator, in the order of the graph.

    `method` is "output error", "gradient" or "gradient of the loss"; `together` the output error
    with all of them quantized, None where it was not taken; `num_samples` what it rests on;
    `left_out` the quantized operators without a row (they give several values, as an LSTM does).
    """

    rows: tuple[SensitivityRow, ...]
    method: str
    num_samples: int
    together: float | None = None
    left_out: tuple[str, ...] = ()

    def ranked(self) -> tuple[SensitivityRow, ...]:
        """The rows, those worth most first: the largest output error, by operator on a tie."""
        return tuple(sorted(self.rows, key=lambda row: (-row.output_error, row.operator)))

    def __getitem__(self, operator: str) -> SensitivityRow:
        """The row of an operator. InvalidInput for one that has none."""
        for row in self.rows:
            if row.operator == operator:
                return row
        raise InvalidInput(f"{operator!r} is no quantized operator of this table")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        lists = {"rows": [asdict(row) for row in self.rows], "left_out": list(self.left_out)}
        return {"schema": SCHEMA, **asdict(self), **lists}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sensitivity:
        """Read back. Damaged for what is no such table, naming what is wrong."""
        try:
            if data["schema"] != SCHEMA:
                raise Damaged(f"a sensitivity table of schema {data['schema']}, not {SCHEMA}")
            names = [field.name for field in fields(SensitivityRow)]
            rows = tuple(SensitivityRow(*(row[name] for name in names)) for row in data["rows"])
            left_out = tuple(data["left_out"])
            return cls(rows, data["method"], data["num_samples"], data["together"], left_out)
        except (KeyError, TypeError) as error:
            raise Damaged(f"this is no sensitivity table: {error!r}") from None

    def __str__(self) -> str:
        width = max([8, *(len(row.operator) for row in self.rows)])
        scored = any(row.metric_change is not None for row in self.rows)
        head = f"{'operator':<{width}}  {'output error':>12}  {'weights':>9}  {'activations':>11}"
        lines = [f"{head}  {'metric':>9}" if scored else head]
        for row in self.ranked():
            line = f"{row.operator:<{width}}  {row.output_error:>12.3g}"
            line += f"  {row.weight_error:>9.2g}  {row.activation_error:>11.2g}"
            if scored:
                line += "  " + ("" if row.metric_change is None else f"{row.metric_change:>+9.4f}")
            lines.append(line)
        if self.together is not None:
            lines.append(f"{'all together':<{width}}  {self.together:>12.3g}")
        if self.left_out:
            lines.append(f"without a row: {', '.join(self.left_out)}")
        return "\n".join([*lines, f"by {self.method}, {self.num_samples} samples"])

"""A latency table as a file: JSON with a schema, the machine it was measured on, and its times.

A table of another machine is not wrong by a factor but wrong in every ratio, so it is refused: the
machine's fingerprint, the variables that hide instructions from a runtime, and the versions of the
runtime and of torch, which writes its graphs, must be those of here and now.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.bench import Environment
from burnish.errors import Damaged, InvalidInput
from burnish.files import write_text
from burnish.profile._latency_context import Correction
from burnish.profile._latency_grid import Classes, Curve, Grid
from burnish.profile._shape import OpShape

SCHEMA = 1
_WHAT = "burnish latency table"

Grids = Mapping[OpShape, Mapping[Classes, Grid]]
Curves = Mapping[OpShape, Curve]


@dataclass(frozen=True)
class Header:
    """Where and how a table was measured; `block` is the number of channels that fill a vector."""

    environment: Environment
    runtime: str
    precision: str
    threads: int | None
    batch: int
    block: int

    def to_json(self) -> dict[str, Any]:
        """A plain dict; `Header.from_json` is its inverse."""
        return {
            "environment": self.environment.to_json(),
            "runtime": self.runtime,
            "precision": self.precision,
            "threads": self.threads,
            "batch": self.batch,
            "block": self.block,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Header:
        """Read back what `to_json` wrote. Raises `Damaged` when it is something else."""
        try:
            threads = record["threads"]
            return cls(
                Environment.from_json(record["environment"]),
                str(record["runtime"]),
                str(record["precision"]),
                None if threads is None else int(threads),
                int(record["batch"]),
                int(record["block"]),
            )
        except (TypeError, KeyError, ValueError) as error:
            raise Damaged(f"this is no header of a latency table ({error})") from None

    def check(self, where: Path) -> None:
        """InvalidInput where this is another machine, or has other versions."""
        here = Environment.capture()
        then, now = self.environment.machine, here.machine
        if then.fingerprint != now.fingerprint:
            raise InvalidInput(
                f"{where} was measured on {then.cpu} ({then.cores} cores, {then.os}), this is "
                f"{now.cpu} ({now.cores} cores, {now.os}): its times hold for its own machine only"
                "; build a table here"
            )
        if dict(then.masks) != dict(now.masks):
            raise InvalidInput(
                f"{where} was measured with instructions hidden by {dict(then.masks)}, here are "
                f"{dict(now.masks)}: set the same variables, or build it again"
            )
        for package in (self.runtime, "torch"):
            old = self.environment.versions.get(package)
            new = here.versions.get(package)
            if old != new:
                raise InvalidInput(
                    f"{where} was measured with {package} {old}, here is {new}: build it again"
                )


def write_table(
    path: Path, header: Header, grids: Grids, curves: Curves, correction: Correction
) -> None:
    """Write a table, whole or not at all."""
    record = {
        "what": _WHAT,
        "schema": SCHEMA,
        "header": header.to_json(),
        "correction": correction.to_json(),
        "grids": [
            {
                "family": family.to_json(),
                "classes": [
                    {"classes": list(kinds), **grid.to_json()} for kinds, grid in found.items()
                ],
            }
            for family, found in grids.items()
        ],
        "curves": [
            {"family": family.to_json(), **curve.to_json()} for family, curve in curves.items()
        ],
    }
    write_text(path, json.dumps(record, indent=1))


def read_table(path: Path) -> tuple[Header, Grids, Curves, Correction]:
    """Read a table of this machine. Raises `Damaged` or `InvalidInput`, see `LatencyTable.open`."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidInput(f"there is no latency table at {path}") from None
    except (OSError, ValueError) as error:
        raise Damaged(f"{path} cannot be read as a latency table: {error}") from None
    if not isinstance(record, dict) or record.get("what") != _WHAT:
        raise Damaged(f"{path} is no latency table")
    if record.get("schema") != SCHEMA:
        raise Damaged(
            f"{path} has schema {record.get('schema')}; this version reads schema {SCHEMA}: "
            "build the table again"
        )
    try:
        header = Header.from_json(record["header"])
        correction = Correction.from_json(record["correction"])
        grids = {
            OpShape.from_json(item["family"]): {
                tuple(grid["classes"]): Grid.from_json(grid) for grid in item["classes"]
            }
            for item in record["grids"]
        }
        curves = {
            OpShape.from_json(item["family"]): Curve.from_json(item) for item in record["curves"]
        }
    except (TypeError, KeyError, AttributeError) as error:
        raise Damaged(f"{path} is a damaged latency table ({error})") from None
    except Damaged as error:
        raise Damaged(f"{path}: {error}") from None
    header.check(path)
    return header, grids, curves, correction

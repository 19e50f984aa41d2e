"""What a model holds, moves and takes, operator by operator: the value that `profile` gives.

A profile is a frozen value and plain JSON both ways: the table, the page, the Chrome trace and the
answers to "does it fit?" are all made of it, here or on another machine. Operators are called as
everywhere in Burnish, by the user's module, torch's operator and its occurrence
("layer1.0.conv1:conv2d"), and stand in the order in which they run.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from burnish.bench import Environment
from burnish.errors import Damaged, InvalidInput
from burnish.files import write_text
from burnish.profile._device import Device, Fit, fit
from burnish.profile._memory import Memory
from burnish.profile._operator import Operator
from burnish.profile._probe import Probe
from burnish.profile._run import Run
from burnish.profile._table import devices_table, facts, operators_table, runs_table
from burnish.profile._trace_file import chrome_trace

SCHEMA = 1
FILE = "profile.json"
_WIDTH = 120


@dataclass(frozen=True)
class Profile:
    """A model at one batch on one machine.

    Attributes:
        title: the model's name.
        created: ISO time.
        batch: samples in a call.
        threads: threads of each runtime.
        environment: machine and versions.
        num_parameters: of the whole model, tied ones once.
        macs: of all operators that are known.
        operators: in the order they run; views included.
        runs: one for each runtime.
        memory: living activations, as a runtime plans them.
        peaks: what was measured of the machine; None without a probe.
        fits: one for each device that was asked about.
        preflight: what is worth trying, as JSON; None where nobody asked.
        notes: what to know besides, in sentences.
    """

    title: str
    created: str
    batch: int
    threads: int
    environment: Environment
    num_parameters: int
    macs: int
    operators: tuple[Operator, ...]
    runs: tuple[Run, ...]
    memory: Memory
    peaks: Probe | None = None
    fits: tuple[Fit, ...] = ()
    preflight: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()

    def operator(self, name: str) -> Operator:
        """The operator of that name. Raises `InvalidInput` where there is none."""
        for item in self.operators:
            if item.name == name:
                return item
        raise InvalidInput(f"the profile has no operator {name!r}; see .operators")

    def run(self, runtime: str) -> Run:
        """A runtime's run. Raises `InvalidInput` where there is none."""
        for item in self.runs:
            if item.name == runtime:
                return item
        known = ", ".join(item.name for item in self.runs) or "none"
        raise InvalidInput(f"the profile has no run in {runtime!r}; there is {known}")

    def to_json(self) -> dict[str, Any]:
        """A plain dict (schema 1); `Profile.from_json` is its inverse."""
        return {
            "schema": SCHEMA,
            "title": self.title,
            "created": self.created,
            "batch": self.batch,
            "threads": self.threads,
            "environment": self.environment.to_json(),
            "num_parameters": self.num_parameters,
            "macs": self.macs,
            "operators": [item.to_json() for item in self.operators],
            "runtimes": [item.to_json() for item in self.runs],
            "memory": {
                **self.memory.to_json(),
                "measured_bytes": {
                    item.name: item.memory_bytes
                    for item in self.runs
                    if item.memory_bytes is not None
                },
            },
            "peaks": None if self.peaks is None else self.peaks.to_json(),
            "devices": [item.to_json() for item in self.fits],
            "preflight": None if self.preflight is None else dict(self.preflight),
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Profile:
        """Read back what `to_json` wrote. Raises `Damaged` when it is something else."""
        try:
            if record["schema"] != SCHEMA:
                raise Damaged(
                    f"a profile of schema {record['schema']!r}; this version reads schema {SCHEMA}"
                )
            peaks = record["peaks"]
            return cls(
                title=record["title"],
                created=record["created"],
                batch=record["batch"],
                threads=record["threads"],
                environment=Environment.from_json(record["environment"]),
                num_parameters=record["num_parameters"],
                macs=record["macs"],
                operators=tuple(Operator.from_json(item) for item in record["operators"]),
                runs=tuple(Run.from_json(item) for item in record["runtimes"]),
                memory=Memory.from_json(record["memory"]),
                peaks=None if peaks is None else Probe.from_json(peaks),
                fits=tuple(Fit.from_json(item) for item in record["devices"]),
                preflight=record["preflight"],
                notes=tuple(record["notes"]),
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise Damaged(f"this is no profile's record ({error})") from None

    def save(self, folder: Path) -> Path:
        """Write `profile.json` into a folder, made where it is missing; its path."""
        path = Path(folder) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n")
        return path

    @classmethod
    def open(cls, folder: Path) -> Profile:
        """Read a folder's `profile.json`. Raises `Damaged` where it is missing or is none."""
        path = Path(folder) / FILE
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise Damaged(f"{path} cannot be read as JSON: {error}") from None
        try:
            return cls.from_json(record)
        except Damaged as error:
            raise Damaged(f"{path}: {error}") from None

    def chrome_trace(self, path: Path) -> None:
        """Write the operators' times and the living activations for chrome://tracing."""
        events = chrome_trace(self.operators, self.runs, self.memory)
        write_text(Path(path), json.dumps(events, allow_nan=False) + "\n")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(self.title, style="bold")
        yield facts(self.batch, self.threads, self.num_parameters, self.macs, self.memory)
        if self.runs:
            yield runs_table(self.runs)
        yield operators_table(self.operators, self.runs)
        if self.fits:
            yield devices_table(self.fits)
        for note in self.notes:
            yield Text(f"- {note}")

    def __str__(self) -> str:
        """The table, as plain text 120 columns wide."""
        console = Console(file=io.StringIO(), width=_WIDTH, color_system=None)
        with console.capture() as captured:
            console.print(self)
        return "\n".join(line.rstrip() for line in captured.get().splitlines())


def fits(profile: Profile, device: Device) -> Fit:
    """Whether the profiled model fits a device, at the profile's batch."""
    return fit(
        profile.memory.weight_bytes, profile.memory.peak_bytes, profile.num_parameters, device
    )

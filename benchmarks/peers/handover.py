"""What passes between the benchmark and the tools it compares, each a process of its own.

In the folder WORK: `task.json`, the float model as `float32.onnx`, and for each of its inputs
`NAME.raw`, all samples one after the other, those that calibrate first. Photos are kept as bytes
and become float32 when read. Handed back, in the folder OUT: the quantized file and `done.json`. A
tool is a script called as `python TOOL.py WORK OUT`, so that each runs in an environment that may
know nothing of the others.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Stored:
    """One input's samples in a file: (what is stored - offset) / divisor, as `dtype`."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    stored: str
    offset: float = 0.0
    divisor: float = 1.0

    def read(self, folder: Path, start: int, stop: int) -> NDArray[Any]:
        """Samples start to stop, [stop - start, *shape]."""
        kept, size = np.dtype(self.stored), int(np.prod(self.shape))
        at = start * size * kept.itemsize
        flat = np.fromfile(self.path(folder), kept, (stop - start) * size, offset=at)
        values = flat.reshape(-1, *self.shape)
        if (self.offset, self.divisor) == (0.0, 1.0):
            return np.asarray(values, dtype=self.dtype)
        scaled = (values.astype(np.float32) - self.offset) / self.divisor
        return np.asarray(scaled, dtype=self.dtype)

    def append(self, folder: Path, values: NDArray[Any]) -> None:
        """Write samples behind those that are there."""
        if (self.offset, self.divisor) != (0.0, 1.0):
            values = (values * self.divisor + self.offset).round()
        with self.path(folder).open("ab") as file:
            file.write(np.ascontiguousarray(values, dtype=self.stored).tobytes())

    def path(self, folder: Path) -> Path:
        """Where they lie."""
        return folder / f"{self.name}.raw"


@dataclass(frozen=True)
class Given:
    """The task: which model, where the files are, how many threads, how many samples calibrate.

    `sources` says where a tool of ours finds the data and the trained weights of the model.
    """

    work: Path
    model: str
    kind: str
    threads: int
    num_calibration: int
    num_samples: int
    inputs: tuple[Stored, ...]
    sources: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, work: Path) -> Given:
        """Read WORK/task.json."""
        kept = json.loads((work / "task.json").read_text(encoding="utf-8"))
        inputs = (Stored(**{**item, "shape": tuple(item["shape"])}) for item in kept.pop("inputs"))
        return cls(work, inputs=tuple(inputs), **kept)

    def save(self) -> None:
        """Write WORK/task.json."""
        kept = {key: value for key, value in asdict(self).items() if key != "work"}
        (self.work / "task.json").write_text(json.dumps(kept), encoding="utf-8")

    @property
    def float_file(self) -> Path:
        """The float32 model, exported once for all."""
        return self.work / "float32.onnx"

    def samples(self, start: int, stop: int) -> Arrays:
        """Samples start to stop of every input, as the network takes them."""
        return {item.name: item.read(self.work, start, stop) for item in self.inputs}

    def only(self, start: int, stop: int) -> NDArray[Any]:
        """The same of a model with one input."""
        (found,) = self.samples(start, stop).values()
        return found

    def calibration(self, batch: int) -> list[Arrays]:
        """The calibration samples in batches."""
        edges = range(0, self.num_calibration, batch)
        return [self.samples(at, min(at + batch, self.num_calibration)) for at in edges]


@dataclass(frozen=True)
class Done:
    """What a tool hands back.

    `seconds` by phase: "quantize" is the quantization alone; what comes before and after it
    (tracing, conversion, export) has names of its own. `coverage` is given by a tool whose result
    no runtime of ours can count: {"convolutions": [int8, all], "linears": [int8, all]}.
    """

    tool: str
    file: str
    seconds: dict[str, float]
    versions: dict[str, str]
    settings: dict[str, object] = field(default_factory=dict)
    coverage: dict[str, list[int]] | None = None


class Stopwatch:
    """Seconds by phase: each `lap(name)` ends one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] = now - self._last
        self._last = now


def versions(*packages: str) -> dict[str, str]:
    """The installed version of each package."""
    return {name: metadata.version(name) for name in packages}


def run(tool: Callable[[Given, Path], Done]) -> None:
    """The main function of every tool."""
    work, out = (Path(argument) for argument in sys.argv[1:3])
    out.mkdir(parents=True, exist_ok=True)
    done = tool(Given.open(work), out)
    (out / "done.json").write_text(json.dumps(asdict(done), indent=1), encoding="utf-8")

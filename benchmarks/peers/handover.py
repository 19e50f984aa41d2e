"""What every tool is given and what it hands back: the same photos, the same file, one form.

Given, in the folder WORK: `task.json`, `float32.onnx`, and `images.u8`, all photos as bytes
[n, 3, 224, 224], the calibration photos first; as float32 they are (byte - 127) / 128. Handed back,
in the folder OUT: the quantized file and `done.json`. A tool is a script called as
`python TOOL.py WORK OUT`, so that each runs in an environment that may know nothing of the others.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SHAPE = (3, 224, 224)
INPUT = "inputs"


@dataclass(frozen=True)
class Given:
    """The task: where the files are, how many threads, how many photos calibrate."""

    work: Path
    threads: int
    num_calibration: int
    num_images: int

    @classmethod
    def open(cls, work: Path) -> Given:
        """Read WORK/task.json."""
        return cls(work, **json.loads((work / "task.json").read_text(encoding="utf-8")))

    def save(self) -> None:
        """Write WORK/task.json."""
        kept = {key: value for key, value in asdict(self).items() if key != "work"}
        (self.work / "task.json").write_text(json.dumps(kept), encoding="utf-8")

    @property
    def float_file(self) -> Path:
        """The float32 model, exported once for all."""
        return self.work / "float32.onnx"

    def images(self, start: int, stop: int) -> NDArray[np.float32]:
        """Photos start to stop as the network takes them: float32 [stop - start, 3, 224, 224]."""
        size = int(np.prod(SHAPE))
        flat = np.fromfile(
            self.work / "images.u8", np.uint8, (stop - start) * size, offset=start * size
        )
        scaled = (flat.reshape(-1, *SHAPE).astype(np.float32) - 127) / 128
        return np.asarray(scaled, dtype=np.float32)

    def calibration(self, batch: int) -> list[NDArray[np.float32]]:
        """The calibration photos in batches."""
        edges = range(0, self.num_calibration, batch)
        return [self.images(at, min(at + batch, self.num_calibration)) for at in edges]


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

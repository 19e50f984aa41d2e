"""Running the tools: one child process each, on the same cores, with the same number of threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parents[1]
NNCF = ("nncf_openvino", "nncf_onnx")
PEERS = (*NNCF, "onnxruntime_static", "torchao_pt2e")
WEIGHTS = ("onnxruntime_weights", "nncf_weights")
THEIRS = (*PEERS, *WEIGHTS, "torchao_worker", "brevitas_rounding")  # run in the peers' environment
OURS = "burnish_static"
_LAST_WORDS = 12  # lines


class ToolFailed(Exception):
    """A tool ended with an error; the message holds its last words."""


class ToolTooSlow(Exception):
    """A tool was ended by us: it had taken the time it was given."""


@dataclass(frozen=True)
class Tools:
    """Both interpreters, the task's folder, and the threads each tool gets."""

    ours: Path
    peers: Path
    work: Path
    threads: int

    @classmethod
    def here(cls, peers: Path, work: Path, threads: int) -> Tools:
        """With this very interpreter for ourselves."""
        return cls(Path(sys.executable), peers, work, threads)

    def run(
        self, name: str, out: Path, limit: float | None = None, **variables: str
    ) -> dict[str, Any]:
        """Run a tool into `out`; what it wrote to done.json.

        Raises `ToolFailed`, and `ToolTooSlow` after `limit` seconds.
        """
        out.mkdir(parents=True, exist_ok=True)
        command = self.command(name, out)
        environment = self.variables(variables)
        with (out / "log.txt").open("w") as log:
            try:
                code = subprocess.run(
                    command, stdout=log, stderr=subprocess.STDOUT, env=environment, timeout=limit
                ).returncode
            except subprocess.TimeoutExpired:
                raise ToolTooSlow(f"{name} was ended after {limit:g} s") from None
        if code != 0:
            words = (out / "log.txt").read_text(errors="replace").splitlines()[-_LAST_WORDS:]
            raise ToolFailed(f"{name} ended with code {code}:\n  " + "\n  ".join(words))
        done: dict[str, Any] = json.loads((out / "done.json").read_text(encoding="utf-8"))
        return done

    def command(self, name: str, out: Path) -> list[str]:
        """The command line of a tool."""
        python = self.peers if name in THEIRS else self.ours
        return [str(python), str(BENCHMARKS / "peers" / f"{name}.py"), str(self.work), str(out)]

    def variables(self, more: Mapping[str, str]) -> dict[str, str]:
        """The environment variables of a tool."""
        root = BENCHMARKS.parent
        paths = [str(root / "src"), str(root / "examples"), str(BENCHMARKS)]
        threads = {"OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}
        return {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(paths), **more}


def pin(threads: int) -> None:
    """Keep this process and its children to as many cores as there are threads."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < threads:
        raise SystemExit(f"--threads {threads}: this process may use {len(usable)} cores")
    os.sched_setaffinity(0, usable[:threads])

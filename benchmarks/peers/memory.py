"""Peak memory of one process: `python memory.py WORK OUT`, MODE and BATCHES in the environment.

MODE "inference" loads the float model and runs it on BATCHES batches of 16; "calibrate" traces,
folds and calibrates on them. Photos are read batch by batch, the same in both. The peak is the
kernel's VmHWM, the highest resident size ever, interpreter and libraries included.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from handover import Done, Given, run, versions

BATCH = 16


def measure(given: Given, out: Path) -> Done:
    from efficientnet_lite0 import model

    torch.set_num_threads(given.threads)
    mode, batches = os.environ["MODE"], int(os.environ["BATCHES"])
    network = model()
    start = peak_bytes()
    if mode == "inference":
        with torch.inference_mode():
            for (images,) in calls(given, batches):
                network(images)
    else:
        from burnish.graph import trace
        from burnish.quantize import calibrate, fold

        folded = fold(trace(network, (torch.from_numpy(given.images(0, 2)),)))
        calibrate(folded, calls(given, batches))
    peaks: dict[str, object] = {"peak_bytes": peak_bytes(), "model_loaded_bytes": start}
    return Done(mode, "", {}, versions("torch"), {"batches": batches, "batch": BATCH, **peaks})


def calls(given: Given, batches: int) -> Iterator[tuple[torch.Tensor]]:
    """Batches of different photos."""
    for index in range(batches):
        yield (torch.from_numpy(given.images(index * BATCH, (index + 1) * BATCH)),)


def peak_bytes() -> int:
    """VmHWM of this process. Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this system does not tell a process's peak memory (no VmHWM)")


if __name__ == "__main__":
    run(measure)

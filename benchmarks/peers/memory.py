"""Peak memory of one process: `python memory.py WORK OUT`, MODE and BATCHES in the environment.

MODE "inference" loads the float model and runs it on BATCHES batches of 16 (BATCH in the
environment: another size); "calibrate" traces, folds and calibrates on them. Samples are read
batch by batch, the same in both. The peak is the kernel's VmHWM, the highest resident size ever,
interpreter and libraries included.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from handover import Done, Given, run, versions
from ours import BATCH, network_of, tensors, traced_of


def measure(given: Given, out: Path) -> Done:
    torch.set_num_threads(given.threads)
    mode, num = os.environ["MODE"], int(os.environ["BATCHES"])
    size = int(os.environ.get("BATCH", BATCH))
    if num * size > given.num_samples:
        raise SystemExit(f"{num} batches of {size}: there are {given.num_samples} samples")
    module = network_of(given)
    start = peak_bytes()
    if mode == "inference":
        with torch.inference_mode():
            for call in calls(given, num, size):
                module(*call)
    else:
        from burnish.quantize import calibrate, fold

        calibrate(fold(traced_of(given, module)), calls(given, num, size))
    peaks: dict[str, object] = {"peak_bytes": peak_bytes(), "model_loaded_bytes": start}
    settings = {"model": given.model, "batches": num, "batch": size, **peaks}
    return Done(mode, "", {}, versions("torch"), settings)


def calls(given: Given, num: int, size: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """Batches of different samples."""
    for index in range(num):
        yield tensors(given.samples(index * size, (index + 1) * size))


def peak_bytes() -> int:
    """VmHWM of this process. Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this system does not tell a process's peak memory (no VmHWM)")


if __name__ == "__main__":
    run(measure)

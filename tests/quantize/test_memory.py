"""Calibration's memory: that of inference at a chunk and the sketches, however much data comes.

Measured as the peak resident set of processes of their own, after 10 batches and after 60, with
nothing told to the allocator. A batch is 0.8 MB and an activation of a chunk 2 MB: holding on to
either would show. Ten batches fill the samples that are kept, so both processes hold all of them.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
import torch
from torch import nn
from burnish.graph import trace
from burnish.quantize import calibrate, fold

torch.set_num_threads(1)
net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
                    nn.Conv2d(16, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                    nn.Linear(16, 10)).eval()
folded = fold(trace(net, (torch.zeros(2, 3, 64, 64),)))
calibrate(folded, ((torch.randn(16, 3, 64, 64),) for _ in range(int(sys.argv[1]))))
for line in open("/proc/self/status"):
    if line.startswith("VmHWM:"):
        print(int(line.split()[1]) / 1024)
"""


def peak(batches: int) -> float:
    """The peak resident set in MB."""
    command = [sys.executable, "-c", PROGRAM, str(batches)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return float(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_with_the_data() -> None:
    few, many = peak(10), peak(60)
    assert abs(many / few - 1) <= 0.05, f"{few:.0f} MB after 10 batches, {many:.0f} MB after 60"

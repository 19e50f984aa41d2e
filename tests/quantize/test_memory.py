"""Calibration's memory: that of inference plus the sketches, whatever the number of batches.

Measured as the peak resident set of processes of their own, against one that only runs the float
model at the same batch. The network's activations are what is large about it. The allocator is told
to give large blocks back at once: what it keeps otherwise differs by 25 MB from run to run.
"""

from __future__ import annotations

import os
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
torch.manual_seed(0)

def block(inputs, outputs):
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]

net = nn.Sequential(*block(3, 32), *block(32, 32), nn.MaxPool2d(2), *block(32, 48), *block(48, 48),
                    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10)).eval()
batch, count = 16, int(sys.argv[2])
folded = fold(trace(net, (torch.zeros(2, 3, 96, 96),)))
data = ((torch.randn(batch, 3, 96, 96),) for _ in range(count))
if sys.argv[1] == "calibrate":
    calibrate(folded, data)
else:
    with torch.inference_mode():
        for (x,) in data:
            net(x)
for line in open("/proc/self/status"):
    if line.startswith("VmHWM:"):
        print(int(line.split()[1]) / 1024)
"""


def peak(what: str, batches: int) -> float:
    """The peak resident set in MB."""
    command = [sys.executable, "-c", PROGRAM, what, str(batches)]
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300, env=env)
    return float(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_with_the_data() -> None:
    few, many, inference = peak("calibrate", 3), peak("calibrate", 20), peak("infer", 2)
    assert many <= few + 4, f"{few:.0f} MB after 3 batches, {many:.0f} MB after 20"
    assert many <= inference + 300, f"{many:.0f} MB, inference alone {inference:.0f} MB"

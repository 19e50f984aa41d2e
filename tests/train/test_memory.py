"""What a step freed is there for the next one: no page is asked for twice while a training runs."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

PROBE = """
import json, resource
import torch
from burnish.train._memory import memory_kept

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(8 << 20).add(1)  # two blocks of 32 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

with memory_kept():
    for _ in range(5):  # until the heap has its size
        faults()
    held = faults()
    full = resident()
print(json.dumps({"held": held, "given back": full - resident()}))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator has settings")
def test_steps_ask_for_no_page_twice_and_give_all_back_at_the_end() -> None:
    ran = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    found = json.loads(ran.stdout)
    # without it: 8,192 pages for each block that is mapped anew, 20 blocks
    assert found["held"] < 100
    assert found["given back"] > 60 << 20

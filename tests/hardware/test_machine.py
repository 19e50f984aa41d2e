"""Machines from their files' text: processors, caches, quotas and limits we do not have here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from burnish.errors import Damaged
from burnish.hardware import Machine, detect
from burnish.hardware._linux import (
    cpu_quota,
    data_caches,
    memory_limit,
    parse_cpuinfo,
    parse_memory,
)
from burnish.hardware._machine import describe

GIB = 1 << 30
XEON = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu sse4_2 fma avx avx2 avx512f avx512_bf16 avx512_vnni amx_bf16 amx_int8

processor\t: 1
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu sse4_2 fma avx avx2 avx512f avx512_bf16 avx512_vnni amx_bf16 amx_int8
"""
OLD = "model name\t: Intel(R) Core(TM) i5-4570\nflags\t\t: fpu sse4_2 fma avx avx2\n"
GRAVITON = """processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd evtstrm aes asimdhp asimddp sve i8mm bf16
CPU implementer\t: 0x41
CPU architecture: 8
CPU part\t: 0xd40
"""
ICE_LAKE = """model name\t: Intel(R) Xeon(R) Gold 6338
flags\t: sse4_1 sse4_2 avx2 avx512f avx512cd avx512dq avx512bw avx512vl avx512vbmi avx512_vnni
"""
CACHES = {
    f"/sys/devices/system/cpu/cpu3/cache/index{index}/{name}": f"{value}\n"
    for index, (kind, level, size) in enumerate(
        [
            ("Data", 1, "48K"),
            ("Instruction", 1, "32K"),
            ("Unified", 2, "2048K"),
            ("Unified", 3, "96M"),
        ]
    )
    for name, value in (("type", kind), ("level", level), ("size", size))
}
MEMORY = "MemTotal:       16777216 kB\nMemFree:        1 kB\n"


def machine(files: dict[str, str], cores: int = 8, system: str = "Linux", **more: Any) -> Machine:
    return describe(
        files.get, cores=cores, system=system, machine="x86_64", processor="", memory=0, **more
    )


def test_x86_is_read() -> None:
    name, isa = parse_cpuinfo(XEON)
    assert name == "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"
    assert {"avx2", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"} <= isa
    assert "fpu" not in isa
    assert parse_cpuinfo(OLD)[1] == {"sse4_2", "fma", "avx", "avx2"}


def test_arm_is_read() -> None:
    name, isa = parse_cpuinfo(GRAVITON)
    assert name == "Arm implementer 0x41 part 0xd40"
    assert isa == {"neon", "neon_fp16", "neon_dotprod", "neon_i8mm", "neon_bf16", "sve"}


def test_the_parts_of_avx512_are_told_apart() -> None:
    assert parse_cpuinfo(ICE_LAKE)[1] == {
        *("sse4_1", "sse4_2", "avx2", "avx512f", "avx512cd", "avx512dq", "avx512bw"),
        *("avx512vl", "avx512vbmi", "avx512_vnni"),
    }
    here = machine({"/proc/cpuinfo": ICE_LAKE})
    assert here.supports_int8
    assert not here.supports_bfloat16
    assert not machine({"/proc/cpuinfo": OLD}).supports_int8
    assert machine({"/proc/cpuinfo": GRAVITON}).supports_int8


def test_data_caches_are_read_and_others_are_not() -> None:
    assert data_caches(CACHES.get, 3) == {"L1": 48 << 10, "L2": 2 << 20, "L3": 96 << 20}
    assert data_caches(CACHES.get, 0) == {}
    broken = {path: "many\n" if path.endswith("size") else text for path, text in CACHES.items()}
    assert data_caches(broken.get, 3) == {}
    assert machine(CACHES, first=3).caches["L2"] == 2 << 20
    assert machine(CACHES, first=3, system="Darwin").caches == {}


@pytest.mark.parametrize(("text", "supported"), [(XEON, True), (OLD, False), (GRAVITON, True)])
def test_bfloat16_is_offered_where_the_processor_has_it(text: str, supported: bool) -> None:
    assert machine({"/proc/cpuinfo": text}).supports_bfloat16 is supported


def test_an_unknown_processor_has_no_instructions_but_a_name() -> None:
    bare = machine({})
    assert bare.cpu == "x86_64"
    assert bare.isa == frozenset()
    assert bare.memory_bytes == 0
    assert not bare.supports_bfloat16
    mac = describe(
        {"/proc/cpuinfo": XEON}.get,
        cores=10,
        system="Darwin",
        machine="arm64",
        processor="arm",
        memory=16 * GIB,
    )
    assert (mac.cpu, mac.cores, mac.memory_bytes, mac.isa) == ("arm", 10, 16 * GIB, frozenset())


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"/proc/self/cgroup": "0::/\n"}, None),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2.5),
        (
            {  # a limit on an outer group holds for the inner ones
                "/proc/self/cgroup": "0::/a/b\n",
                "/sys/fs/cgroup/a/b/cpu.max": "400000 100000",
                "/sys/fs/cgroup/a/cpu.max": "300000 100000",
                "/sys/fs/cgroup/cpu.max": "max 100000",
            },
            3.0,
        ),
        (
            {  # version 1, mounted under both names
                "/proc/self/cgroup": "4:memory:/docker/x\n2:cpu,cpuacct:/docker/x\n0::/docker/x\n",
                "/sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "150000\n",
                "/sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000\n",
            },
            1.5,
        ),
        (
            {
                "/proc/self/cgroup": "2:cpu,cpuacct:/docker/x\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            0.5,
        ),
        (
            {
                "/proc/self/cgroup": "1:cpu:/\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
    ],
)
def test_cpu_quotas(files: dict[str, str], quota: float | None) -> None:
    assert cpu_quota(files.get) == quota


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"/proc/self/cgroup": "0::/a", "/sys/fs/cgroup/a/memory.max": "max"}, None),
        ({"/proc/self/cgroup": "0::/a", "/sys/fs/cgroup/a/memory.max": str(GIB)}, GIB),
        (
            {  # both versions at once
                "/proc/self/cgroup": "4:memory:/m\n0::/a",
                "/sys/fs/cgroup/unified/a/memory.max": str(3 * GIB),
                "/sys/fs/cgroup/memory/m/memory.limit_in_bytes": str(2 * GIB),
            },
            2 * GIB,
        ),
        (
            {
                "/proc/self/cgroup": "4:memory:/m",
                "/sys/fs/cgroup/memory/m/memory.limit_in_bytes": "9223372036854771712",
            },
            None,
        ),
    ],
)
def test_memory_limits(files: dict[str, str], limit: int | None) -> None:
    assert memory_limit(files.get) == limit


@pytest.mark.parametrize(("quota", "cores"), [("250000", 2), ("50000", 1), ("990000", 8)])
def test_a_quota_counts_in_whole_cores_and_never_adds_any(quota: str, cores: int) -> None:
    files = {"/proc/self/cgroup": "0::/", "/sys/fs/cgroup/cpu.max": f"{quota} 100000"}
    assert machine(files).cores == cores


def test_a_fractional_quota_is_kept_beside_the_cores() -> None:
    files = {"/proc/self/cgroup": "0::/", "/sys/fs/cgroup/cpu.max": "150000 100000"}
    here = machine(files)
    assert (here.quota, here.cores) == (1.5, 1)
    assert not here.throttles(1)
    assert here.throttles(2)
    half = machine({**files, "/sys/fs/cgroup/cpu.max": "50000 100000"})
    assert half.cores == 1
    assert half.throttles(1)
    assert not machine({}).throttles(64)


def test_masks_are_told_and_others_of_the_environment_are_not() -> None:
    environ = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "default", "PATH": "/bin"}
    masked = machine({"/proc/cpuinfo": XEON}, environ=environ)
    assert masked.masks == {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    assert masked.isa == machine({"/proc/cpuinfo": XEON}).isa
    assert Machine.from_json(masked.to_json()) == masked


def test_without_permission_to_read_anything_a_machine_is_still_described(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forbidden(self: Path, *_: Any, **__: Any) -> str:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_text", forbidden)
    here = detect()
    assert here.cpu
    assert here.cores >= 1
    assert (here.isa, here.caches, here.quota) == (frozenset(), {}, None)


def test_the_tighter_memory_counts() -> None:
    files = {"/proc/meminfo": MEMORY, "/proc/self/cgroup": "0::/"}
    assert parse_memory(MEMORY) == machine(files).memory_bytes == 16 * GIB
    assert machine({**files, "/sys/fs/cgroup/memory.max": str(GIB)}).memory_bytes == GIB
    assert machine({**files, "/sys/fs/cgroup/memory.max": str(64 * GIB)}).memory_bytes == 16 * GIB


def test_the_fingerprint_tells_machines_apart_and_not_boots() -> None:
    one = machine({"/proc/cpuinfo": XEON, "/proc/meminfo": MEMORY})
    assert len(one.fingerprint) == 12
    assert one.fingerprint == replace(one, memory_bytes=16 * GIB - 4096).fingerprint
    assert one.fingerprint == replace(one, python="3.99").fingerprint
    assert one.fingerprint == replace(one, masks={"ONEDNN_MAX_CPU_ISA": "AVX2"}).fingerprint
    others = [
        replace(one, cpu="another"),
        replace(one, cores=4),
        replace(one, memory_bytes=8 * GIB),
        replace(one, isa=one.isa - {"amx_int8"}),
        replace(one, os="Windows AMD64"),
        replace(one, caches={"L1": 32768}),
        replace(one, quota=0.5),
    ]
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 8


def test_json_there_and_back() -> None:
    one = machine({"/proc/cpuinfo": XEON, "/proc/meminfo": MEMORY})
    assert Machine.from_json(json.loads(json.dumps(one.to_json()))) == one
    whole = one.to_json()
    before = {key: whole[key] for key in ("cpu", "cores", "memory_bytes", "isa", "os", "python")}
    assert Machine.from_json(before) == one
    broken: list[dict[str, Any]] = [{}, {"isa": []}, {**whole, "gpu": 1}, {**whole, "isa": 3}]
    for record in broken:
        with pytest.raises(Damaged, match="no machine's record"):
            Machine.from_json(record)


def test_this_machine_is_described() -> None:
    here = detect()
    assert here.cpu
    assert here.memory_bytes > 0
    assert here == detect()
    if hasattr(os, "sched_getaffinity"):
        assert 1 <= here.cores <= len(os.sched_getaffinity(0))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_the_affinity_mask_counts() -> None:
    script = (
        "import os\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from burnish.hardware import detect\n"
        "print(detect().cores)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "1\n"

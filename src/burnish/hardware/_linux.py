"""What Linux says about this machine, read from text.

Each function takes the text of a file (or a way to read files), so that machines we do not have can
be described in tests. A file that may not be read counts as one that is not there. A limit may be
set at any level of the control group tree: all levels count, and the tightest holds. Version 1 and
version 2 of the tree, and both mounted at once, are read. Left out: CPU shares and weights, which
limit nothing as long as the machine is idle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

Read = Callable[[str], str | None]  # the text of a file, or None where there is none

# The flag's name in /proc/cpuinfo is ours, but for Arm's, which say too little alone.
_X86 = frozenset(
    (
        *("sse4_1", "sse4_2", "f16c", "fma", "avx", "avx2"),
        *("avx_vnni", "avx_vnni_int8", "avx_ne_convert"),
        *("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512vbmi"),
        *("avx512_vbmi2", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
        *("amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    )
)
_ARM = {
    "asimd": "neon",
    "asimddp": "neon_dotprod",
    "asimdhp": "neon_fp16",
    "bf16": "neon_bf16",
    "i8mm": "neon_i8mm",
    "sme": "sme",
    "sve": "sve",
    "sve2": "sve2",
    "svebf16": "sve_bf16",
    "svei8mm": "sve_i8mm",
}
_NO_LIMIT = 1 << 60  # version 1 writes "no limit" as a number of this size
_ROOT = "/sys/fs/cgroup"
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_MOST_CACHES = 16


def parse_cpuinfo(text: str) -> tuple[str, frozenset[str]]:
    """The processor's name ("" where it is not told) and its instructions."""
    model, implementer, part = "", "", ""
    isa: set[str] = set()
    for line in text.splitlines():
        key, _, value = (item.strip() for item in line.partition(":"))
        match key:
            case "model name" | "Model" if not model:
                model = value
            case "CPU implementer":
                implementer = value
            case "CPU part":
                part = value
            case "flags":
                isa |= _X86 & set(value.split())
            case "Features":
                isa |= {_ARM[flag] for flag in value.split() if flag in _ARM}
    if not model and implementer:
        model = f"Arm implementer {implementer} part {part}"
    return model, frozenset(isa)


def parse_memory(text: str) -> int:
    """Bytes of memory from /proc/meminfo; 0 where it is not told."""
    for line in text.splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def data_caches(read: Read, cpu: int) -> dict[str, int]:
    """Bytes of the caches that data of core number `cpu` goes through: {"L1": 32768, ...}.

    As the system tells them; a virtual machine may tell of a larger share than it gets.
    """
    found = {}
    for index in range(_MOST_CACHES):
        folder = f"/sys/devices/system/cpu/cpu{cpu}/cache/index{index}"
        kind, level, size = (
            (read(f"{folder}/{name}") or "").strip() for name in ("type", "level", "size")
        )
        if kind in ("Data", "Unified") and level and size[:-1].isdigit() and size[-1] in _UNITS:
            found[f"L{level}"] = int(size[:-1]) * _UNITS[size[-1]]
    return dict(sorted(found.items()))


def cpu_quota(read: Read) -> float | None:
    """CPUs' worth of time this process's control groups allow, or None without a limit."""
    found = []
    for folder in _folders(read, ""):
        quota, _, period = (read(f"{folder}/cpu.max") or "max").strip().partition(" ")
        if quota != "max":
            found.append(int(quota) / int(period or 100_000))
    for folder in _folders(read, "cpu"):
        quota = (read(f"{folder}/cpu.cfs_quota_us") or "-1").strip()
        period = (read(f"{folder}/cpu.cfs_period_us") or "100000").strip()
        if int(quota) > 0:
            found.append(int(quota) / int(period))
    return min(found, default=None)


def memory_limit(read: Read) -> int | None:
    """Bytes this process's control groups allow, or None without a limit."""
    found = []
    for folder in _folders(read, ""):
        limit = (read(f"{folder}/memory.max") or "max").strip()
        if limit != "max":
            found.append(int(limit))
    for folder in _folders(read, "memory"):
        limit = (read(f"{folder}/memory.limit_in_bytes") or str(_NO_LIMIT)).strip()
        if int(limit) < _NO_LIMIT:
            found.append(int(limit))
    return min(found, default=None)


def _folders(read: Read, controller: str) -> Iterator[str]:
    """Folders of the groups this process is in, inmost first; "" is version 2's only tree."""
    for line in (read("/proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller not in controllers.split(","):
            continue
        mounts = [_ROOT, f"{_ROOT}/unified"] if not controller else [f"{_ROOT}/{controllers}"]
        if controller and controllers != controller:
            mounts.append(f"{_ROOT}/{controller}")
        inner = PurePosixPath(path)
        for mount in mounts:
            for group in (inner, *inner.parents):
                yield f"{mount}{group}".rstrip("/")

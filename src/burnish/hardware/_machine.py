"""What this machine is, as far as it matters to how fast a model runs on it.

Cores are those this process may really use: its affinity mask, and a container's CPU quota rounded
down (threads beyond it are stopped in the middle of a run). The quota itself is kept, because half
a core is one core that stands still half of the time. Memory is the machine's or the container's
limit, whichever is less. Instructions and caches are told on Linux only; elsewhere they are empty,
which means unknown, and nothing that needs them is offered.

Masks are environment variables by which libraries are told to use fewer instructions than there
are. They change what a runtime does, not what the machine is: they are listed beside it and do not
count in its fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from burnish.errors import Damaged
from burnish.hardware._linux import (
    Read,
    cpu_quota,
    data_caches,
    memory_limit,
    parse_cpuinfo,
    parse_memory,
)

_GIB = 1 << 30
_BFLOAT16 = frozenset({"amx_bf16", "avx512_bf16", "neon_bf16"})
_INT8 = frozenset({"amx_int8", "avx512_vnni", "avx_vnni", "neon_dotprod", "neon_i8mm"})
# oneDNN under torch and OpenVINO (by both its names), and torch's own kernels.
_MASKS = ("ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA")


@dataclass(frozen=True)
class Machine:
    """Processor, usable cores, bytes of memory (0: unknown), instructions, system, Python.

    `caches` holds bytes by level ("L1" and "L2" usually a core's own, "L3" shared), `quota` the
    cores' worth of time a container allows (None: no limit), `masks` the variables that hide
    instructions from runtimes.
    """

    cpu: str
    cores: int
    memory_bytes: int
    isa: frozenset[str]
    os: str
    python: str
    caches: Mapping[str, int] = field(default_factory=dict, hash=False)
    quota: float | None = None
    masks: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits: the same on machines that time alike.

        Memory counts in whole GiB (it moves by some bytes with each boot); Python and masks do not
        count.
        """
        memory = round(self.memory_bytes / _GIB)
        parts = [self.cpu, self.cores, memory, sorted(self.isa), self.os]
        parts += [sorted(self.caches.items()), self.quota]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]

    @property
    def supports_bfloat16(self) -> bool:
        """Whether the processor multiplies bfloat16 itself."""
        return not _BFLOAT16.isdisjoint(self.isa)

    @property
    def supports_int8(self) -> bool:
        """Whether the processor adds up products of 8-bit integers itself."""
        return not _INT8.isdisjoint(self.isa)

    def throttles(self, threads: int) -> bool:
        """Whether so many busy threads use up the quota, and are stopped in the middle of a run."""
        return self.quota is not None and self.quota < threads

    def to_json(self) -> dict[str, Any]:
        """A plain dict; `Machine.from_json` is its inverse."""
        return {
            "cpu": self.cpu,
            "cores": self.cores,
            "memory_bytes": self.memory_bytes,
            "isa": sorted(self.isa),
            "os": self.os,
            "python": self.python,
            "caches": dict(self.caches),
            "quota": self.quota,
            "masks": dict(self.masks),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Machine:
        """Read back what `to_json` wrote. Raises `Damaged` when it is something else."""
        try:
            return cls(**{**record, "isa": frozenset(record["isa"])})
        except (TypeError, KeyError) as error:
            raise Damaged(f"this is no machine's record ({error}): {dict(record)}") from None


def detect() -> Machine:
    """Describe the machine this process runs on."""
    if hasattr(os, "sched_getaffinity"):
        usable = os.sched_getaffinity(0)
    else:
        usable = set(range(os.cpu_count() or 1))
    return describe(
        _read,
        cores=len(usable),
        system=platform.system(),
        machine=platform.machine(),
        processor=platform.processor(),
        memory=_memory(),
        first=min(usable),
        environ=os.environ,
    )


def describe(
    read: Read,
    *,
    cores: int,
    system: str,
    machine: str,
    processor: str,
    memory: int,
    first: int = 0,
    environ: Mapping[str, str] | None = None,
) -> Machine:
    """A machine from what `platform` says of it and, on Linux, from files read through `read`.

    `first` is the core whose caches are asked for.
    """
    name, isa, caches, quota = "", frozenset[str](), dict[str, int](), None
    if system == "Linux":
        name, isa = parse_cpuinfo(read("/proc/cpuinfo") or "")
        memory = parse_memory(read("/proc/meminfo") or "") or memory
        caches = data_caches(read, first)
        quota, limit = cpu_quota(read), memory_limit(read)
        if quota is not None:
            cores = min(cores, max(1, int(quota)))
        if limit is not None:
            memory = min(memory, limit) if memory else limit
    return Machine(
        cpu=name or processor or machine or "unknown",
        cores=cores,
        memory_bytes=memory,
        isa=isa,
        os=f"{system} {machine}".strip(),
        python=platform.python_version(),
        caches=caches,
        quota=quota,
        masks={mask: environ[mask] for mask in _MASKS if mask in environ} if environ else {},
    )


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0

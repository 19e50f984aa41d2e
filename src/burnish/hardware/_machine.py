"""What this machine is, as far as it matters to how fast a model runs on it.

Cores are those this process may really use: its affinity mask, and a container's CPU quota rounded
down (threads beyond it are stopped in the middle of a run). Memory is the machine's or the
container's limit, whichever is less. Instructions are told on Linux only; elsewhere `isa` is empty,
which means unknown, and nothing that needs them is offered.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.errors import Damaged
from burnish.hardware._linux import Read, cpu_quota, memory_limit, parse_cpuinfo, parse_memory

_GIB = 1 << 30
_BFLOAT16 = frozenset({"amx_bf16", "avx512_bf16", "neon_bf16"})


@dataclass(frozen=True)
class Machine:
    """Processor, usable cores, bytes of memory (0: unknown), instructions, system, Python."""

    cpu: str
    cores: int
    memory_bytes: int
    isa: frozenset[str]
    os: str
    python: str

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits: the same on machines that time alike.

        Memory counts in whole GiB (it moves by some bytes with each boot), Python does not count.
        """
        memory = round(self.memory_bytes / _GIB)
        parts = [self.cpu, self.cores, memory, sorted(self.isa), self.os]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]

    @property
    def supports_bfloat16(self) -> bool:
        """Whether the processor multiplies bfloat16 itself."""
        return not _BFLOAT16.isdisjoint(self.isa)

    def to_json(self) -> dict[str, Any]:
        """A plain dict; `Machine.from_json` is its inverse."""
        return {
            "cpu": self.cpu,
            "cores": self.cores,
            "memory_bytes": self.memory_bytes,
            "isa": sorted(self.isa),
            "os": self.os,
            "python": self.python,
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
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return describe(
        _read,
        cores=cores,
        system=platform.system(),
        machine=platform.machine(),
        processor=platform.processor(),
        memory=_memory(),
    )


def describe(
    read: Read, *, cores: int, system: str, machine: str, processor: str, memory: int
) -> Machine:
    """A machine from what `platform` says of it and, on Linux, from files read through `read`."""
    name, isa = "", frozenset[str]()
    if system == "Linux":
        name, isa = parse_cpuinfo(read("/proc/cpuinfo") or "")
        memory = parse_memory(read("/proc/meminfo") or "") or memory
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

"""What this machine is, what is installed, and what is missing with the line that installs it.

Versions come from the packages' metadata, so nothing is imported and nothing is slow. What follows
from the instruction set is said in words, because `avx512_vnni` tells most people nothing. What the
machine was measured to do is in `_measured`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import metadata

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from burnish.bundle import without_compiler
from burnish.hardware import Machine

# package: what it is for
RUNTIMES = {
    "torch": "the eager runtime, quantizing, optimizing",
    "onnxruntime": "the onnxruntime runtime",
    "openvino": "the openvino runtime",
}
OTHERS = {
    "onnx": "exporting to the runtimes",
    "onnxscript": "exporting to the runtimes",
    "plotly": "the report page",
    "jinja2": "the report page",
}
VNNI = ("avx512_vnni", "avx_vnni")
AMX = ("amx_int8", "amx_bf16")


def version(package: str) -> str | None:
    """The installed version, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def diagnosis(machine: Machine) -> RenderableType:
    """The machine, the packages and what follows from both, for a console."""
    return Group(
        section("Machine", _machine(machine)),
        section("Instructions", _instructions(machine)),
        section("Packages", _packages()),
    )


def section(title: str, rows: Iterable[tuple[str, str, str]]) -> RenderableType:
    """Rows of name, value and remark under a title."""
    shown = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    shown.add_column(style="bold", no_wrap=True)
    shown.add_column(overflow="fold")
    shown.add_column(overflow="fold", style="dim")
    for name, value, note in rows:
        style = "red" if value == "missing" else ""
        shown.add_row(Text(name), Text(value, style=style), Text(note))
    return Group(Text(title, style="bold underline"), shown)


def _machine(machine: Machine) -> Iterator[tuple[str, str, str]]:
    memory = f"{machine.memory_bytes / 1e9:.3g} GB" if machine.memory_bytes else "unknown"
    yield "processor", machine.cpu, ""
    yield "cores", str(machine.cores), "usable by this process: affinity and quota counted"
    if machine.quota is not None:
        stopped = machine.throttles(machine.cores)
        yield (
            "quota",
            f"{machine.quota:g} cores",
            "less than a core: every run is stopped in its middle, no timing here is reliable"
            if stopped
            else "a container's: more busy threads than that are stopped in the middle of a run",
        )
    caches = ", ".join(f"{name} {_binary(size)}" for name, size in machine.caches.items())
    yield (
        "caches",
        caches or "unknown",
        "L1 and L2 a core's own, the last one shared" if caches else "",
    )
    yield "memory", memory, ""
    yield "system", machine.os, ""
    yield "python", machine.python, ""


def _instructions(machine: Machine) -> Iterator[tuple[str, str, str]]:
    if not machine.isa:
        yield "instructions", "unknown", "not told on this system: nothing that needs them is tried"
        return
    fast = machine.supports_int8
    yield (
        "int8 dot products",
        "yes" if fast else "no",
        "int8 can be several times as fast as float32"
        if fast
        else "int8 makes files smaller here, but may be no faster than float32",
    )
    if not any(name.startswith("neon") for name in machine.isa):
        yield from _of_x86(_any(machine, VNNI), _any(machine, AMX))
    yield (
        "bfloat16",
        "yes" if machine.supports_bfloat16 else "no",
        "bfloat16 is tried as a candidate of its own (openvino)"
        if machine.supports_bfloat16
        else "bfloat16 is not tried: it would be emulated, slower than float32",
    )
    for mask, value in machine.masks.items():
        yield mask, value, "set in the environment: hides instructions from a runtime's kernels"
    yield "in all", str(len(machine.isa)), ", ".join(sorted(machine.isa))


def _binary(num_bytes: int) -> str:
    """Caches come in powers of two."""
    return f"{num_bytes >> 20} MiB" if num_bytes >= 1 << 20 else f"{num_bytes >> 10} KiB"


def _of_x86(vnni: bool, amx: bool) -> Iterator[tuple[str, str, str]]:
    yield (
        "VNNI",
        "yes" if vnni else "no",
        "8-bit products are added up in 32 bits, without saturating"
        if vnni
        else "8-bit products may saturate in 16 bits (AVX2): check accuracy on this very machine",
    )
    yield (
        "AMX",
        "yes" if amx else "no",
        "tiles for int8 and bfloat16: most gain in large layers and batches"
        if amx
        else "no matrix tiles: gains come from vector instructions alone",
    )


def _any(machine: Machine, names: tuple[str, ...]) -> bool:
    return any(name in machine.isa for name in names)


def _packages() -> Iterator[tuple[str, str, str]]:
    for package, purpose in (RUNTIMES | OTHERS).items():
        found = version(package)
        if found is None:
            yield package, "missing", f"{purpose}: pip install {package}"
        else:
            yield package, found, purpose
    lacking = without_compiler()
    found = "found" if lacking is None else "missing"
    yield "C++ compiler", found, lacking or "the inductor runtime (torch.compile)"

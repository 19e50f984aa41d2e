"""Energy by RAPL, where this process may read it.

Intel's and AMD's processors count the energy of each package, and some that of its memory, in
registers that Linux shows under /sys/class/powercap. They are read here as they are: everything the
package does is in them, idle power and other processes too, so a figure is the energy of the whole
machine's processor while a model ran, not of the model alone.

Since 2020 Linux lets only root read the counters (they leak what others compute: Lipp et al.,
PLATYPUS, 2021), and virtual machines rarely have them. Then nothing is estimated in their place.
Left out: the parts within a package (core, uncore: they are in its sum), the platform's own counter
(psys), and counters of other systems.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from burnish.errors import Unsupported

_ROOT = Path("/sys/class/powercap")
_PACKAGE = re.compile(r"intel-rapl:\d+")  # AMD's, too; intel-rapl-mmio repeats the same packages
_PART = re.compile(r"intel-rapl:\d+:\d+")
_MICRO = 1e-6


@dataclass(frozen=True)
class Counter:
    """One counter: its name, its file, and the microjoules at which it begins again."""

    name: str
    file: Path
    wraps_at: int


@dataclass(frozen=True)
class Meter:
    """The counters to be added up."""

    counters: tuple[Counter, ...]

    @property
    def names(self) -> str:
        return ", ".join(counter.name for counter in self.counters)

    def read(self) -> tuple[int, ...]:
        """Microjoules of each counter. Raises `Unsupported` when one cannot be read."""
        return tuple(_number(counter.file) for counter in self.counters)

    def joules(self, before: tuple[int, ...], after: tuple[int, ...]) -> float:
        """What was used between two readings, of counters that wrapped at most once."""
        used = 0
        for counter, start, end in zip(self.counters, before, after, strict=True):
            used += end - start if end >= start else end - start + counter.wraps_at
        return used * _MICRO


def find_meter(root: Path = _ROOT) -> Meter:
    """The counters of this machine. Raises `Unsupported` with the reason where there are none."""
    counters = []
    for folder in sorted(root.glob("intel-rapl:*")):
        name = _text(folder / "name")
        package = _PACKAGE.fullmatch(folder.name) and name.startswith("package")
        memory = _PART.fullmatch(folder.name) and name == "dram"
        if package or memory:
            counters.append(
                Counter(name, folder / "energy_uj", _number(folder / "max_energy_range_uj"))
            )
    if not any(counter.name.startswith("package") for counter in counters):
        raise Unsupported(
            f"{root} shows no RAPL counter of a package: the processor has none, its driver is not "
            "loaded, or this is a virtual machine that hides it"
        )
    meter = Meter(tuple(counters))
    meter.read()
    return meter


def _number(file: Path) -> int:
    text = _text(file)
    try:
        return int(text)
    except ValueError:
        raise Unsupported(f"{file} holds {text!r} where a number is expected") from None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except PermissionError:
        raise Unsupported(
            f"{file} may not be read by this user (since 2020 Linux shows it to root only)"
        ) from None
    except OSError as error:
        raise Unsupported(f"{file} cannot be read ({error.strerror})") from None

"""Whether a model fits a device: its flash holds the weights, its memory the living activations.

On a microcontroller the weights stay in flash, where they are read from, and memory holds the
activations at their peak. Everywhere else the weights are loaded and memory holds both. The table
of devices says what a model may take of each, not what the device has; a file of the user's own in
the same form adds to it, and a device of a known name there takes the place of ours.

Left out: the size and the needs of the runtime itself (an interpreter for microcontrollers takes
some tens of kilobytes, a server's runtime tens of megabytes): numbers differ with the build.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.errors import Damaged, InvalidInput
from burnish.profile._figures import bytes_text

_TABLE = Path(__file__).with_name("devices.json")
_KINDS = ("microcontroller", "phone", "single-board computer", "server")
_FLOAT32 = 4


@dataclass(frozen=True)
class Device:
    """A device: bytes a model may take of its storage and of its memory; None is unknown.

    `kind` is "microcontroller", "phone", "single-board computer" or "server".
    """

    name: str
    kind: str
    flash_bytes: int | None
    ram_bytes: int | None
    note: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise InvalidInput(f"a device is called {self.name!r}; give it a name")
        if self.kind not in _KINDS:
            raise InvalidInput(
                f"device {self.name!r} is of kind {self.kind!r}; one of {', '.join(_KINDS)}"
            )
        for what, size in (("flash_bytes", self.flash_bytes), ("ram_bytes", self.ram_bytes)):
            if size is not None and (type(size) is not int or size < 1):
                raise InvalidInput(
                    f"device {self.name!r} has {what}={size!r}; bytes from 1 up, or null"
                )


@dataclass(frozen=True)
class Fit:
    """Whether a model fits a device, what it needs of it, and the reason in words.

    `fits` is None where the device does not say how much it has.
    """

    device: Device
    fits: bool | None
    flash_needs: int
    ram_needs: int
    reason: str

    def to_json(self) -> dict[str, Any]:
        """A plain dict; `Fit.from_json` is its inverse."""
        return {
            "name": self.device.name,
            "kind": self.device.kind,
            "note": self.device.note,
            "fits": self.fits,
            "flash": {"needs": self.flash_needs, "has": self.device.flash_bytes},
            "ram": {"needs": self.ram_needs, "has": self.device.ram_bytes},
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Fit:
        """Read back what `to_json` wrote. Raises `Damaged` when it is something else."""
        try:
            flash, ram = record["flash"], record["ram"]
            device = Device(
                record["name"], record["kind"], flash["has"], ram["has"], record["note"]
            )
            return cls(device, record["fits"], flash["needs"], ram["needs"], record["reason"])
        except (TypeError, KeyError, InvalidInput) as error:
            raise Damaged(f"this is no record of a device ({error})") from None


def devices(path: Path | None = None) -> tuple[Device, ...]:
    """The known devices, smallest first, with those of a JSON file at `path` added.

    The file holds a list of objects, {"name", "kind", "flash_bytes", "ram_bytes", "note"}; sizes
    may be null, the note may be missing. Raises `InvalidInput` naming the file and what is wrong.
    """
    known = {device.name: device for device in _read(_TABLE)}
    for device in _read(Path(path)) if path is not None else ():
        known[device.name] = device
    return tuple(known.values())


def _read(path: Path) -> list[Device]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"the table of devices {path} cannot be read as JSON: {error}") from None
    names = {field.name for field in dataclasses.fields(Device)}
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InvalidInput(f"{path}: a table of devices is a list of objects with {sorted(names)}")
    found = []
    for row in rows:
        missing = names - row.keys() - {"note"}
        if missing or row.keys() - names:
            what = f"lacks {sorted(missing)}" if missing else f"has {sorted(row.keys() - names)}"
            raise InvalidInput(f"{path}: device {row.get('name')!r} {what}; it has {sorted(names)}")
        try:
            found.append(Device(**row))
        except InvalidInput as error:
            raise InvalidInput(f"{path}: {error}") from None
    return found


def fit(weight_bytes: int, peak_bytes: int, num_parameters: int, device: Device) -> Fit:
    """Whether weights and living activations of these sizes fit a device.

    `num_parameters` tells whether the weights are in float32, so that int8 would take a quarter.
    """
    small = device.kind == "microcontroller"
    ram = peak_bytes if small else peak_bytes + weight_bytes
    missing = [
        f"{what} {bytes_text(need)}, it has {bytes_text(has)} of {where}"
        for what, need, has, where in (
            ("the weights take", weight_bytes, device.flash_bytes, "flash"),
            (
                "the activations take" if small else "weights and activations take",
                ram,
                device.ram_bytes,
                "memory",
            ),
        )
        if has is not None and need > has
    ]
    if missing:
        reason = "; ".join(missing)
        if num_parameters * _FLOAT32 >= 0.9 * weight_bytes:
            smaller = fit(weight_bytes // 4, peak_bytes // 4, 0, device)
            reason += "; in int8 it would fit" if smaller.fits else "; nor would it in int8"
        return Fit(device, False, weight_bytes, ram, reason)
    unknown = [
        what
        for what, has in (("flash", device.flash_bytes), ("memory", device.ram_bytes))
        if has is None
    ]
    if unknown:
        reason = f"how much {' and '.join(unknown)} it has is not said"
        return Fit(device, None, weight_bytes, ram, reason)
    reason = f"{bytes_text(weight_bytes)} of flash, {bytes_text(ram)} of memory"
    return Fit(device, True, weight_bytes, ram, reason)

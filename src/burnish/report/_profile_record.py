"""A model's profile as it was written down: operators, runtimes, memory, devices.

Figures that are not known are None, or missing from the mapping they would stand in: a runtime that
has no time for an operator has no entry in its `seconds`.

Left out: the modules. They are not in the file; `_tree` makes them of the operators' paths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.errors import InvalidInput
from burnish.report._node import Node, load, root
from burnish.report._preflight import Preflight, preflight
from burnish.report._probe_record import Probe, probe

SCHEMA = 1
FILE = "profile.json"
BOUNDS = ("compute", "memory", "overhead")


@dataclass(frozen=True)
class Operator:
    """One operator of the graph; `seconds`, `owner`, `share_of_peak` and `bound` are by runtime.

    `owner` is the operator into whose kernel a runtime has fused this one, where it has. `bound` is
    "compute", "memory" or "overhead"; `share_of_peak` is the least time that the machine's peaks
    allow over the time it took (above 1 where its data was still in a nearer cache than supposed).
    """

    name: str
    module: str
    kind: str
    macs: int | None
    num_parameters: int | None
    weight_bytes: int | None
    input_bytes: int | None
    output_bytes: int | None
    seconds: Mapping[str, float]
    owner: Mapping[str, str]
    share_of_peak: Mapping[str, float]
    bound: Mapping[str, str]

    @property
    def num_bytes(self) -> int | None:
        """Bytes of weights, inputs and outputs; None where one of the three is not known."""
        parts = (self.weight_bytes, self.input_bytes, self.output_bytes)
        return None if any(part is None for part in parts) else sum(part or 0 for part in parts)

    @property
    def intensity(self) -> float | None:
        """Multiply-accumulates per byte of weights and activations."""
        return self.macs / self.num_bytes if self.macs is not None and self.num_bytes else None


@dataclass(frozen=True)
class Timed:
    """The whole model in one runtime: latency (ms) with its interval, and what the counters saw.

    `attributed` is the sum of the operators' times, `counted` adds kernels that belong to none, and
    `share` is attributed over whole runs that took turns with the counted ones. `rest` are the
    kinds of kernels that belong to no operator, with their milliseconds, the longest first.
    """

    name: str
    precision: str | None
    p50: float | None
    low: float | None
    high: float | None
    attributed: float | None
    counted: float | None
    share: float | None
    reliable: bool
    note: str | None
    failed: str | None
    rest: tuple[tuple[str, float], ...]

    @property
    def whole(self) -> float | None:
        """Milliseconds of the runs that the counters are to be compared with."""
        if self.attributed is None or not self.share or self.share < 0:
            return self.p50
        return self.attributed / self.share


@dataclass(frozen=True)
class Memory:
    """Bytes of activations alive at once, operator by operator, and of weights.

    `measured` is by runtime: the most a process held that ran the model.
    """

    peak_bytes: int | None
    peak_at: str | None
    weight_bytes: int | None
    timeline: tuple[tuple[str, float | None], ...]
    measured: Mapping[str, float]


@dataclass(frozen=True)
class Device:
    """A class of device, and whether the model fits it (None: cannot be told)."""

    name: str
    kind: str | None
    fits: bool | None
    flash: tuple[float | None, float | None]
    ram: tuple[float | None, float | None]
    reason: str | None
    note: str | None


@dataclass(frozen=True)
class Profile:
    """All that a profile's page tells."""

    title: str
    created: str | None
    batch: int | None
    threads: int | None
    num_parameters: int | None
    macs: int | None
    environment: Mapping[str, Any]
    operators: tuple[Operator, ...]
    runtimes: tuple[Timed, ...]
    memory: Memory | None
    probe: Probe | None
    devices: tuple[Device, ...]
    preflight: Preflight | None
    notes: tuple[str, ...]

    def timed(self, name: str | None) -> Timed | None:
        """The runtime of that name, if there is one."""
        return next((one for one in self.runtimes if one.name == name), None)


def read(path: Path) -> Profile:
    """Read a profile from its folder or its file.

    Raises:
        InvalidInput: there is none, or it is of a later schema.
        Damaged: the file is cut short, is no JSON, or holds a value of the wrong type.
    """
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise InvalidInput(
            f"there is no {file}: give the folder that `burnish profile` wrote, or its {FILE}"
        )
    return _profile(load(file, SCHEMA))


def embedded(node: Node | None) -> Profile | None:
    """The profile in another file, if there is one; raises as `read` does."""
    return None if node is None else _profile(root(dict(node.value), node.where, SCHEMA))


def _profile(node: Node) -> Profile:
    return Profile(
        title=node.text("title") or "untitled model",
        created=node.text("created"),
        batch=node.whole("batch"),
        threads=node.whole("threads"),
        num_parameters=node.whole("num_parameters"),
        macs=node.whole("macs"),
        environment=node.object("environment"),
        operators=tuple(_operator(one) for one in node.children("operators")),
        runtimes=tuple(_timed(one) for one in node.children("runtimes")),
        memory=_memory(node.child("memory")),
        probe=probe(node.child("peaks")),
        devices=tuple(_device(one) for one in node.children("devices")),
        preflight=preflight(node.child("preflight")),
        notes=node.texts("notes"),
    )


def _operator(node: Node) -> Operator:
    roofline = node.child("roofline")
    found = (
        {name: place for name in roofline.value if (place := roofline.child(name)) is not None}
        if roofline
        else {}
    )
    share = {name: place.number("share_of_peak") for name, place in found.items()}
    bound = {name: place.text("bound") for name, place in found.items()}
    return Operator(
        name=node.needed("name"),
        module=node.text("module") or "",
        kind=node.text("kind") or "unknown",
        macs=node.whole("macs"),
        num_parameters=node.whole("num_parameters"),
        weight_bytes=node.whole("weight_bytes"),
        input_bytes=node.whole("input_bytes"),
        output_bytes=node.whole("output_bytes"),
        seconds={
            name: value for name, value in node.numbers("seconds").items() if 0 <= value < math.inf
        },
        owner=node.named("fused_into"),
        share_of_peak={name: value for name, value in share.items() if value is not None},
        bound={name: value for name, value in bound.items() if value in BOUNDS},
    )


def _timed(node: Node) -> Timed:
    latency = node.child("latency")
    p50, low, high = (
        latency.number(key) if latency else None for key in ("p50_ms", "low_ms", "high_ms")
    )
    return Timed(
        name=node.needed("name"),
        precision=node.text("precision"),
        p50=p50,
        low=low,
        high=high,
        attributed=node.number("attributed_ms"),
        counted=node.number("counted_ms"),
        share=node.number("share"),
        reliable=node.flag("reliable"),
        note=node.text("note"),
        failed=node.text("failed"),
        rest=_rest(node.children("rest")),
    )


def _rest(nodes: Sequence[Node]) -> tuple[tuple[str, float], ...]:
    found: dict[str, float] = {}
    for node in nodes:
        kind = node.text("kind") or node.text("name") or "unnamed"
        found[kind] = found.get(kind, 0.0) + (node.number("ms") or 0.0)
    return tuple(sorted(found.items(), key=lambda one: -one[1]))


def _memory(node: Node | None) -> Memory | None:
    if node is None:
        return None
    return Memory(
        peak_bytes=node.whole("peak_bytes"),
        peak_at=node.text("peak_at"),
        weight_bytes=node.whole("weight_bytes"),
        timeline=tuple(
            (one.text("operator") or "unnamed", one.number("bytes"))
            for one in node.children("timeline")
        ),
        measured=node.numbers("measured_bytes"),
    )


def _device(node: Node) -> Device:
    def pair(key: str) -> tuple[float | None, float | None]:
        inner = node.child(key)
        return (inner.number("needs"), inner.number("has")) if inner else (None, None)

    return Device(
        name=node.needed("name"),
        kind=node.text("kind"),
        fits=node.maybe("fits"),
        flash=pair("flash"),
        ram=pair("ram"),
        reason=node.text("reason"),
        note=node.text("note"),
    )

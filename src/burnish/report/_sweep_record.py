"""A sweep over batch, threads and streams as it was written down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.errors import Damaged, InvalidInput
from burnish.report._node import Node, load

SCHEMA = 1
FILE = "sweep.json"


@dataclass(frozen=True)
class Point:
    """One combination: milliseconds per call, samples a second, joules per sample.

    `low` and `high` are the interval of the median, `cost` is that of a million samples.
    """

    batch: int | None
    threads: int | None
    streams: int | None
    p50: float | None
    low: float | None
    high: float | None
    p99: float | None
    throughput: float | None
    joules: float | None
    cost: float | None
    reliable: bool
    note: str | None
    failed: str | None


@dataclass(frozen=True)
class Best:
    """What was asked, and the answer: a point, or the nearest one where none will do."""

    min_throughput: float | None
    max_p99: float | None
    point: Point | None
    nearest: Point | None
    why: str | None


@dataclass(frozen=True)
class Sweep:
    """All that a sweep's page tells; `price` is that of an hour of the machine."""

    title: str
    created: str | None
    points: tuple[Point, ...]
    best: Best | None
    energy: str | None
    price: float | None
    notes: tuple[str, ...]
    environment: Mapping[str, Any]


def read(path: Path) -> Sweep:
    """Read a sweep from its folder or its file.

    Raises:
        InvalidInput: there is none, or it is of a later schema.
        Damaged: the file is cut short, is no JSON, or holds a value of the wrong type.
    """
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise InvalidInput(f"there is no {file}: give the folder of a sweep, or its {FILE}")
    node = load(file, SCHEMA)
    energy, cost = node.child("energy"), node.child("cost")
    costs = cost.value.get("per_million") if cost else None
    points = tuple(
        _point(one, _cost(costs, index, cost)) for index, one in enumerate(node.children("points"))
    )
    return Sweep(
        title=node.text("title") or "untitled sweep",
        created=node.text("created"),
        points=points,
        best=_best(node.child("best"), points),
        energy=energy.text("how") if energy else None,
        price=cost.number("price_per_hour") if cost else None,
        notes=node.texts("notes"),
        environment=node.object("environment"),
    )


def _cost(costs: Any, index: int, node: Node | None) -> float | None:
    """What a million samples of a point cost; the list follows that of the points."""
    if costs is None or node is None:
        return None
    if not isinstance(costs, list):
        raise Damaged(f"{node.where}.per_million is {costs!r:.60}, not a list")
    found = {str(at): value for at, value in enumerate(costs)}
    return Node(found, f"{node.where}.per_million").number(str(index))


def _point(node: Node, cost: float | None) -> Point:
    return Point(
        batch=node.whole("batch"),
        threads=node.whole("threads"),
        streams=node.whole("streams"),
        p50=node.number("p50_ms"),
        low=node.number("low"),
        high=node.number("high"),
        p99=node.number("p99_ms"),
        throughput=node.number("throughput"),
        joules=node.number("joules"),
        cost=cost,
        reliable=node.flag("reliable"),
        note=node.text("note"),
        failed=node.text("failed"),
    )


def _best(node: Node | None, points: tuple[Point, ...]) -> Best | None:
    if node is None:
        return None

    def one(key: str) -> Point | None:
        index = node.whole(key)
        if index is not None and not 0 <= index < len(points):
            raise Damaged(f"{node.where}.{key} is {index}, and there are {len(points)} points")
        return None if index is None else points[index]

    return Best(
        min_throughput=node.number("min_throughput"),
        max_p99=node.number("max_p99_ms"),
        point=one("point"),
        nearest=one("nearest"),
        why=node.text("why"),
    )

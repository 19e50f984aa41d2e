"""A JSON file read strictly: what is missing is None, what is of the wrong type is `Damaged`.

Everything a page tells was written down by a run that may have stopped at any moment, so a null, a
missing key and NaN all read as None. A value of the wrong type is a fault of the file, and the
message says where in it the value stands.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.errors import Damaged, InvalidInput


@dataclass(frozen=True)
class Node:
    """An object of the file and where it stands in it."""

    value: Mapping[str, Any]
    where: str

    def text(self, key: str) -> str | None:
        found: str | None = self._typed(key, str, "a text")
        return found

    def needed(self, key: str) -> str:
        found = self.text(key)
        if found is None:
            raise Damaged(f"{self.where} lacks {key!r}")
        return found

    def number(self, key: str) -> float | None:
        found = self._typed(key, (int, float), "a number")
        return None if found is None or math.isnan(found) else float(found)

    def whole(self, key: str) -> int | None:
        found = self.number(key)
        return None if found is None or math.isinf(found) else round(found)

    def flag(self, key: str) -> bool:
        return bool(self.maybe(key))

    def maybe(self, key: str) -> bool | None:
        """True, false or not known."""
        found = self.value.get(key)
        if not isinstance(found, bool | None):
            raise self._wrong(key, "true or false")
        return found

    def object(self, key: str) -> Mapping[str, Any]:
        return self._typed(key, dict, "an object") or {}

    def child(self, key: str) -> Node | None:
        found = self._typed(key, dict, "an object")
        return None if found is None else Node(found, f"{self.where}.{key}")

    def children(self, key: str) -> tuple[Node, ...]:
        found = self._typed(key, list, "a list") or []
        nodes = []
        for index, one in enumerate(found):
            if not isinstance(one, dict):
                raise self._wrong(f"{key}[{index}]", "an object", one)
            nodes.append(Node(one, f"{self.where}.{key}[{index}]"))
        return tuple(nodes)

    def numbers(self, key: str) -> dict[str, float]:
        """The known numbers of an object, by name."""
        inner = self.child(key)
        found = {name: inner.number(name) for name in inner.value} if inner else {}
        return {name: value for name, value in found.items() if value is not None}

    def named(self, key: str) -> dict[str, str]:
        """The known texts of an object, by name."""
        inner = self.child(key)
        found = {name: inner.text(name) for name in inner.value} if inner else {}
        return {name: value for name, value in found.items() if value is not None}

    def texts(self, key: str) -> tuple[str, ...]:
        found = self._typed(key, list, "a list") or []
        for index, one in enumerate(found):
            if not isinstance(one, str):
                raise self._wrong(f"{key}[{index}]", "a text", one)
        return tuple(found)

    def _typed(self, key: str, kind: type | tuple[type, ...], called: str) -> Any:
        found = self.value.get(key)
        if found is not None and (isinstance(found, bool) or not isinstance(found, kind)):
            raise self._wrong(key, called)
        return found

    def _wrong(self, key: str, called: str, found: Any = None) -> Damaged:
        shown = repr(self.value.get(key) if found is None else found)[:60]
        return Damaged(f"{self.where}.{key} is {shown}, not {called}")


def load(path: Path, newest: int) -> Node:
    """The object in a file that says its schema, up to `newest`.

    Raises:
        InvalidInput: the file is of a later schema.
        Damaged: it is cut short, is no JSON, holds no object, or does not say its schema.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is not whole JSON ({error})") from None
    return root(record, str(path), newest)


def root(record: Any, where: str, newest: int) -> Node:
    """`record` as a node, its schema checked; raises as `load` does."""
    if not isinstance(record, dict):
        raise Damaged(f"{where} holds a {type(record).__name__} where an object is expected")
    node = Node(record, where)
    schema = node.whole("schema")
    if schema is None or schema < 1:
        raise Damaged(f"{where} does not say its schema")
    if schema > newest:
        raise InvalidInput(
            f"{where} is of schema {schema} and this Burnish reads up to {newest}: "
            "it was written by a later version; upgrade burnish"
        )
    return node

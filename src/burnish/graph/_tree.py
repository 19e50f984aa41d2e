"""How a model's outputs nest, as plain JSON.

Graphs and artifacts speak flat tuples of tensors; users' models return tuples, lists, dicts,
named tuples and dataclasses. `flatten` takes an output apart into its tensors and a tree of plain
JSON; `unflatten` builds it again. Classes are rebuilt while they are known to this process (they
were seen by `flatten`); from a file, where only the class's name is left, a `Record` with the same
fields stands in. No class is ever imported by a name out of a file.

Left out: sets and custom containers; they are refused by name.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from burnish.errors import Unsupported

_SEEN: dict[str, type] = {}


class Record(SimpleNamespace):
    """Stands in for a dataclass or named tuple whose class this process has not seen."""


def flatten(value: Any, what: str = "output") -> tuple[list[torch.Tensor], dict[str, Any]]:
    """The tensors in `value`, and the tree that `unflatten` builds it from; `what` names it.

    Raises:
        Unsupported: a container that is none of tuple, list, dict, named tuple, dataclass; a dict
            whose keys are no strings; a number that depends on the size of a dynamic axis.
    """
    tensors: list[torch.Tensor] = []
    return tensors, _flatten(value, tensors, what)


def _flatten(value: Any, tensors: list[torch.Tensor], path: str) -> dict[str, Any]:
    if isinstance(value, torch.Tensor):
        tensors.append(value)
        return {"kind": "tensor"}
    if value is None or isinstance(value, bool | int | float | str):
        return {"kind": "constant", "value": value}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
        return _record("dataclass", value, pairs, tensors, path)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        pairs = [(name, getattr(value, name)) for name in value._fields]
        return _record("namedtuple", value, pairs, tensors, path)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise Unsupported(
                    f"{path} is a dict with the key {key!r}: keys must be strings, which name the "
                    "tensors of an artifact; wrap the model so that they are"
                )
        items = {key: _flatten(item, tensors, f"{path}[{key!r}]") for key, item in value.items()}
        return {"kind": "dict", "items": items}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        nested = [_flatten(v, tensors, f"{path}[{i}]") for i, v in enumerate(value)]
        return {"kind": kind, "items": nested}
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        raise Unsupported(
            f"the model returns a number at {path} that changes with a dynamic axis: an artifact "
            "gives tensors only; wrap the model so that it returns a tensor or leaves it out"
        )
    raise Unsupported(
        f"the model returns a {type(value).__name__} at {path}; outputs may nest tuples, lists, "
        "dicts and dataclasses of tensors: wrap the model so that it returns one of those"
    )


def _record(
    kind: str, value: Any, pairs: list[tuple[str, Any]], tensors: list[torch.Tensor], path: str
) -> dict[str, Any]:
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    _SEEN[name] = type(value)
    items = {field: _flatten(item, tensors, f"{path}.{field}") for field, item in pairs}
    return {"kind": kind, "class": name, "items": items}


def unflatten(tree: Mapping[str, Any], tensors: Sequence[Any]) -> Any:
    """Build the output again from its tensors (torch or numpy alike)."""
    remaining = iter(tensors)
    value = _unflatten(tree, remaining)
    assert next(remaining, None) is None, "more tensors than the tree has places"
    return value


def _unflatten(tree: Mapping[str, Any], tensors: Iterator[Any]) -> Any:
    kind = tree["kind"]
    if kind == "tensor":
        return next(tensors)
    if kind == "constant":
        return tree["value"]
    if kind in ("list", "tuple"):
        items = [_unflatten(item, tensors) for item in tree["items"]]
        return items if kind == "list" else tuple(items)
    fields = {name: _unflatten(item, tensors) for name, item in tree["items"].items()}
    if kind == "dict":
        return fields
    assert kind in ("dataclass", "namedtuple"), kind
    made = _SEEN.get(tree["class"], Record)
    declared = dataclasses.fields(made) if dataclasses.is_dataclass(made) else ()
    computed = {field.name for field in declared if not field.init}
    value = made(**{name: item for name, item in fields.items() if name not in computed})
    for name in computed:
        object.__setattr__(value, name, fields[name])
    return value


def tensor_keys(tree: Mapping[str, Any]) -> list[str]:
    """The path of each tensor of a tree, its parts joined by dots; "" where there is but one."""
    return [".".join(path) for path in _paths(tree, ())]


def tensor_names(tree: Mapping[str, Any], taken: Sequence[str] = ()) -> list[str]:
    """A readable name for each tensor of an output: its path. Unique, and none of `taken`."""
    return unique_names(
        [
            "_".join(f"output_{part}" if part.isdigit() else part for part in path) or "output"
            for path in _paths(tree, ())
        ],
        taken,
    )


def unique_names(names: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    """The names, each that is taken or stood before with the first free number behind it."""
    used = {*taken, *(name for name, count in Counter(names).items() if count == 1)}
    seen = set(taken)
    result = []
    for name in names:
        new, number = name, 2
        while new in seen or (new != name and new in used):
            new, number = f"{name}_{number}", number + 1
        seen.add(new)
        result.append(new)
    return result


def _paths(tree: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if tree["kind"] == "tensor":
        yield path
    elif tree["kind"] != "constant":
        items = tree["items"]
        for key, item in items.items() if isinstance(items, Mapping) else enumerate(items):
            yield from _paths(item, (*path, str(key)))

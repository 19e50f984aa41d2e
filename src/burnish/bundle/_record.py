"""Reading our own JSON strictly, naming files safely, and writing them whole or not at all.

Everything a folder of ours says about itself may have been truncated, edited, or made by somebody
hostile. So a record is read key by key with its type (a missing or surplus key is `Damaged`, not a
default), and a file name it holds must stay inside the folder: relative, no `..`, no drive, no
symbolic link that leads out.

Left out: a schema library. Six functions do what we need and keep the room free of dependencies.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeAlias, TypeVar

from burnish.errors import BurnishError, Damaged, InvalidInput
from burnish.files import write_text

Json: TypeAlias = Any  # whatever json.loads gives
T = TypeVar("T")


def read_json(path: Path) -> dict[str, Json]:
    """The JSON object in `path`. Raises `Damaged` when it is missing, cut short or no object."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Damaged(f"{path} is missing") from None
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is not whole JSON ({error})") from None
    if not isinstance(record, dict):
        raise Damaged(f"{path} holds a {type(record).__name__} where an object is expected")
    return record


def write_json(path: Path, record: Json) -> None:
    """Write `record` to `path` in one step: readers see the old file or the new one."""
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, text)


def only(record: Mapping[str, Json], keys: Collection[str], where: str) -> None:
    """Raise `Damaged` unless `record` has exactly these keys."""
    missing, surplus = sorted(set(keys) - set(record)), sorted(set(record) - set(keys))
    if missing:
        raise Damaged(f"{where} lacks {missing}")
    if surplus:
        raise Damaged(f"{where} has {surplus}, which this version does not know")


def take(record: Mapping[str, Json], key: str, kind: type[T], where: str) -> T:
    """`record[key]`, of type `kind` (a bool is no int). Raises `Damaged` otherwise."""
    if key not in record:
        raise Damaged(f"{where} lacks {key!r}")
    value = record[key]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        found = type(value).__name__
        raise Damaged(f"{where}: {key!r} is a {found} where a {kind.__name__} is expected")
    return value


def inside(folder: Path, name: str, where: str, error: type[BurnishError] = Damaged) -> Path:
    """The file `name` of `folder`; an `error` naming it when it would leave the folder."""
    windows, posix = PureWindowsPath(name), PurePosixPath(name)
    outside = (
        not name
        or "\0" in name
        or "\\" in name
        or posix.is_absolute()
        or bool(windows.drive or windows.root)
        or ".." in posix.parts
        or posix == PurePosixPath(".")
    )
    if outside:
        raise error(f"{where} names {name!r}, which is not a file inside its folder")
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise error(f"{where} names {name!r}, a link that leads out of its folder")
    return path


def port_name(name: str, where: str) -> str:
    """`name` if it can name a tensor in a file of ours, else `InvalidInput`."""
    if not name or any(ord(letter) < 32 for letter in name):
        raise InvalidInput(f"{where}: {name!r} cannot name a tensor; use printable characters")
    return name


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""What a torch.export archive may hold: read before torch is let near it.

`torch.export.load` runs code from the file in more ways than one, each tried against torch 2.13:
it unpickles example inputs, legacy weight files, tensor subclasses and custom objects; and, with no
pickle in sight, it hands the symbolic sizes of `model.json` to `sympy.sympify`, which evaluates
them as Python. Names from the same file end up in generated source, and operators are looked up by
attribute from `torch` on. So an archive is refused unless everything in it is on a list:

- entries: only those `save_program` writes (weights and constants as raw bytes, their two tables,
  the graph, six lines of bookkeeping), stored uncompressed, each once; sample inputs only if empty;
- tables: no payload marked as pickled, each payload one of the listed raw entries;
- graph: operators of ATen, prims, burnish and four higher-order ones (but none that opens a file);
  sizes that are arithmetic on symbols; plain containers; names of letters, digits, `_`, `.`, `-`;
  no guard code, no metadata (it also holds the author's paths and source lines), no custom objects.

Contents are not sniffed for pickle headers: a listed weight is only ever read as raw bytes, and one
float tensor in some ten thousand starts like a pickle. Left out: resource limits; a hostile archive
can still ask for more memory than there is, and then its worker fails alone.
"""

from __future__ import annotations

import ast
import json
import re
import zipfile
from pathlib import Path
from typing import Any, NoReturn

from burnish.bundle._record import Json
from burnish.errors import Damaged

GRAPH = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
_SAMPLES = "data/sample_inputs/model.pt"
_BOOKKEEPING = {
    "archive_format",
    "archive_version",
    "byteorder",
    ".data/version",
    ".data/serialization_id",
}
_WEIGHT = re.compile(r"data/weights/weight_\d+")
_CONSTANT = re.compile(r"data/constants/tensor_\d+")
_PICKLED = re.compile(r"(\.pkl|\.pickle|\.pt|\.pth|\.bin|/custom_obj_\d+|/opaque_obj_\d+)$")
_NAME = re.compile(r"[\w.\-]*", re.ASCII)
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims|burnish)\.(\w+)\.(\w+)"
    r"|torch\.ops\.higher_order\.(cond|while_loop|wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|torch\.(sym_(float|int|ite|max|min|not|sqrt|sum)|_sym_sqrt)"
    r"|_operator\.(getitem|add|sub|mul|mod|floordiv|truediv|neg|pos|pow|and_|or_|xor|eq|ne|lt|le|gt"
    r"|ge|lshift|rshift)"
    r"|math\.(ceil|floor|trunc)",
    re.ASCII,
)
_DUNDER = re.compile(r"__\w*__")
_DUNDERS_OF_ATEN = re.compile(r"__i?(and|or|xor|lshift|rshift)__")
_OPENS_FILES = {"from_file", "from_file_out"}
_CONTAINERS = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}
_FREE_TEXT = {"as_string", "as_strings"}  # quoted by torch wherever it writes source
_SYMBOLIC = re.compile(
    r"Abs|Add|And|CeilDiv|CeilToInt|CleanDiv|Eq|Equality|Float|FloatPow|FloatTrueDiv|FloorDiv"
    r"|FloorToInt|Ge|GreaterThan|Gt|Identity|IntTrueDiv|Integer|LShift|Le|LessThan|Lt|Max|Min|Mod"
    r"|ModularIndexing|Mul|Ne|Not|Or|Pow|PowByNatural|PythonMod|RShift|Rational|RoundDecimal"
    r"|RoundToInt|StrictGreaterThan|StrictLessThan|Symbol|ToFloat|TruncToFloat|TruncToInt"
    r"|Unequality|Where|ceiling|floor"
)
_SYMBOL = re.compile(r"[a-z]{1,3}\d{1,9}|true|false|oo|int_oo|[-+]?\d+(\.\d*)?(e[-+]?\d+)?")


def check_archive(path: Path) -> dict[str, bytes]:
    """The JSON entries of the archive, by name without the archive's root folder.

    Raises `Damaged` naming the file, the entry and what is wrong with it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _entries(archive, path)
            texts = {
                name: archive.read(info)
                for name, info in entries.items()
                if name.endswith(".json") or name in _BOOKKEEPING
            }
    except FileNotFoundError:
        raise Damaged(f"{path} is missing") from None
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError) as error:
        raise Damaged(f"{path} is not a whole archive ({error})") from None
    for table, pattern in ((WEIGHTS, _WEIGHT), (CONSTANTS, _CONSTANT)):
        _check_table(_parse(texts[table], path, table), pattern, set(entries), f"{path}, {table}")
    graph = _parse(texts[GRAPH], path, GRAPH)
    _Graph(f"{path}, {GRAPH}").check(graph, "")
    return texts


def _entries(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    found: dict[str, zipfile.ZipInfo] = {}
    roots = set()
    for info in archive.infolist():
        root, _, name = info.filename.partition("/")
        roots.add(root)
        where = f"{path}, entry {info.filename!r}"
        if name in found:
            raise Damaged(f"{where} is there twice")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise Damaged(f"{where} is compressed or encrypted; ours are stored plainly")
        known = name in _BOOKKEEPING | {GRAPH, WEIGHTS, CONSTANTS}
        raw = _WEIGHT.fullmatch(name) or _CONSTANT.fullmatch(name)
        empty = name == _SAMPLES and info.file_size == 0
        if not (known or raw or empty):
            why = "would be unpickled" if _PICKLED.search(name) else "is not one we write"
            raise Damaged(f"{where} {why}; refused before loading")
        found[name] = info
    missing = {GRAPH, WEIGHTS, CONSTANTS, "archive_version"} - set(found)
    if missing or len(roots) != 1:
        raise Damaged(f"{path} is no torch.export archive: it lacks {sorted(missing)}")
    return found


def _parse(text: bytes, path: Path, name: str) -> dict[str, Json]:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path}, entry {name!r} is not whole JSON ({error})") from None
    if not isinstance(record, dict):
        raise Damaged(f"{path}, entry {name!r} is no JSON object")
    return record


def _check_table(
    table: dict[str, Json], pattern: re.Pattern[str], entries: set[str], where: str
) -> None:
    config = table.get("config")
    if set(table) != {"config"} or not isinstance(config, dict):
        raise Damaged(f"{where} is not a table of payloads")
    folder = pattern.pattern.rpartition("/")[0]
    for name, payload in config.items():
        if not _NAME.fullmatch(name) or not isinstance(payload, dict):
            raise Damaged(f"{where}: {name!r} is not a plain name with a payload")
        if payload.get("use_pickle") is not False:
            raise Damaged(f"{where}: {name!r} is marked as pickled; refused before loading")
        entry = f"{folder}/{payload.get('path_name')}"
        if not pattern.fullmatch(entry) or entry not in entries:
            raise Damaged(f"{where}: {name!r} points to {entry!r}, no raw entry of this archive")
        _Graph(f"{where}, {name!r}").check(payload.get("tensor_meta"), "tensor_meta")


class _Graph:
    """Walks `model.json` and refuses whatever torch would evaluate and we do not know."""

    def __init__(self, where: str) -> None:
        self._where = where

    def _refuse(self, key: str, value: Any, why: str) -> NoReturn:
        shown = repr(value)[:120]
        raise Damaged(f"{self._where}: {key} {shown} {why}; refused before loading")

    def check(self, value: Json, key: str) -> None:
        if key in ("metadata", "guards_code", "custom_obj_values"):
            if value:
                self._refuse(key, value, "is not empty")
        elif key == "as_custom_obj" and value is not None:
            self._refuse(key, value, "is an object torch would unpickle")
        elif isinstance(value, dict):
            for name, item in value.items():
                self._check_text(name, "name")
                self.check(item, name)
        elif isinstance(value, list):
            for item in value:
                self.check(item, key)
        elif isinstance(value, str):
            self._check_text(value, key)

    def _check_text(self, text: str, key: str) -> None:
        match key:
            case "expr_str":
                self._check_expression(text)
            case "target" | "as_operator":
                self._check_operator(text, key)
            case "in_spec" | "out_spec":
                self._check_containers(text, key)
            case "torch_version":
                if not re.fullmatch(r"[\w.+<= ]*", text, re.ASCII):
                    self._refuse(key, text, "is no version")
            case _ if key in _FREE_TEXT:
                pass
            case _:
                if not _NAME.fullmatch(text):
                    self._refuse(key, text, "is not a plain name")

    def _check_operator(self, text: str, key: str) -> None:
        found = _OPERATOR.fullmatch(text)
        if found is None:
            self._refuse(key, text, "is not an operator we accept")
        name, overload = found.group(2) or "", found.group(3) or ""
        odd = _DUNDER.fullmatch(name) and not _DUNDERS_OF_ATEN.fullmatch(name)
        if odd or _DUNDER.fullmatch(overload) or name in _OPENS_FILES:
            self._refuse(key, text, "is not an operator we accept")

    def _check_containers(self, text: str, key: str) -> None:
        try:
            spec = json.loads(text)
        except (ValueError, RecursionError):
            self._refuse(key, text, "is no JSON")
        if not (isinstance(spec, list) and len(spec) == 2):
            self._refuse(key, text, "is no tree of containers")
        todo = [spec[1]]
        while todo:
            node = todo.pop()
            kind = node.get("type") if isinstance(node, dict) else "?"
            if kind not in _CONTAINERS or "__enum__" in str(node.get("context")):
                self._refuse(key, kind, "is not a plain container")
            todo.extend(node.get("children_spec", []))

    def _check_expression(self, text: str) -> None:
        try:
            tree = ast.parse(text.strip(), mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            self._refuse("size", text, "is no expression")
        called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for node in ast.walk(tree):
            if not _is_arithmetic(node, id(node) in called):
                self._refuse("size", text, "is more than arithmetic on symbols")


_HARMLESS = (
    ast.Expression,
    ast.Call,
    ast.keyword,
    ast.Load,
    ast.BinOp,
    ast.UnaryOp,
    ast.Compare,
    ast.operator,
    ast.unaryop,
    ast.cmpop,
)


def _is_arithmetic(node: ast.AST, called: bool) -> bool:
    match node:
        case ast.Name(id=name):
            return bool((_SYMBOLIC if called else _SYMBOL).fullmatch(name))
        case ast.Constant(value=str() as text):
            return bool(_SYMBOL.fullmatch(text))
        case ast.Constant(value=value):
            return isinstance(value, (bool, int, float))
        case ast.Call():
            return isinstance(node.func, ast.Name)
    return isinstance(node, _HARMLESS)

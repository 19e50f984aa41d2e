"""Rules about the shape of a file: sizes, settings, depth, names, defaults, doors.

The numbers are handed in. A class is found again through the imports of the file that names it, so
depth and inherited settings are counted over rooms; a base from another package counts as nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from tests.architecture.edges import public_names
from tests.architecture.source import PACKAGE, Source, Violation, imports

Function = ast.FunctionDef | ast.AsyncFunctionDef
Classes = Mapping[tuple[str, str], tuple[Source, ast.ClassDef]]

ATTICS = frozenset({"util", "utils", "common", "helper", "helpers", "misc"})
MUTABLE = frozenset({"list", "dict", "set", "bytearray", "defaultdict", "deque", "Counter"})


def long_files(sources: Sequence[Source], limit: int) -> Iterator[Violation]:
    for source in sources:
        lines = len(source.text.splitlines())
        if lines > limit:
            what = f"{lines} lines, and a file has at most {limit}"
            yield Violation(source.path, lines, what, "split it where its second idea begins")


def long_functions(sources: Sequence[Source], limit: int) -> Iterator[Violation]:
    for source in sources:
        for node in ast.walk(source.tree):
            if not isinstance(node, Function):
                continue
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > limit:
                what = f"{node.name}() has {lines} lines, and a function has at most {limit}"
                yield Violation(source.path, node.lineno, what, "name its parts and call them")


def missing_docstrings(sources: Sequence[Source]) -> Iterator[Violation]:
    for source in sources:
        if source.text.strip() and ast.get_docstring(source.tree) is None:
            todo = "say how the idea works and what was left out"
            yield Violation(source.path, 1, "the file opens without a docstring", todo)


def attics(sources: Sequence[Source]) -> Iterator[Violation]:
    """Files and folders named after nothing in particular."""
    for source in sources:
        for part in PurePosixPath(source.path).with_suffix("").parts:
            if part.strip("_").lower() in ATTICS:
                what = f"'{part}' says nothing about what is in it"
                yield Violation(source.path, 1, what, "name it after its one idea")


def mutable_defaults(sources: Sequence[Source]) -> Iterator[Violation]:
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, Function | ast.Lambda):
                defaults = [*node.args.defaults, *[d for d in node.args.kw_defaults if d]]
                todo = "default to None or to a tuple"
            elif isinstance(node, ast.ClassDef):
                defaults = [value for _, value in _fields(node) if value is not None]
                todo = "use field(default_factory=...), or a tuple"
            else:
                continue
            for default in filter(_is_mutable, defaults):
                yield Violation(source.path, default.lineno, "a mutable default is shared", todo)


def _is_mutable(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        return name in MUTABLE
    displays = ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp
    return isinstance(node, displays)


def many_settings(sources: Sequence[Source], limit: int) -> Iterator[Violation]:
    """Steps (classes with `apply` or `rewrite`) with more settings than one remembers."""
    classes = _classes(sources)
    for (module, _), (source, node) in classes.items():
        chain = _chain(module, node, classes)
        methods = {m.name: m for m in node.body if isinstance(m, Function)}
        if not methods.keys() & {"apply", "rewrite"}:
            continue
        fields = {name for _, one in chain for name, _ in _fields(one)}
        taken = methods["__init__"].args if "__init__" in methods else None
        arguments = len(taken.posonlyargs + taken.args + taken.kwonlyargs) - 1 if taken else 0
        count = max(len(fields), arguments)
        if count > limit:
            what = f"step {node.name} has {count} settings, and a step has at most {limit}"
            yield Violation(source.path, node.lineno, what, "group them into a value, or drop some")


def deep_inheritance(sources: Sequence[Source], limit: int) -> Iterator[Violation]:
    """Chains of our own classes longer than `limit`; a base of another package is not counted."""
    classes = _classes(sources)
    for (module, _), (source, node) in classes.items():
        chain = [one.name for _, one in _chain(module, node, classes)]
        if len(chain) > limit:
            what = f"{' < '.join(chain)} is {len(chain)} deep, and {limit} is the most"
            yield Violation(source.path, node.lineno, what, "derive from the interface itself")


def _classes(sources: Sequence[Source]) -> Classes:
    """Every class at the top of a file by (module, name), and by each (module, imported name)."""
    found = {}
    for source in sources:
        for node in source.tree.body:
            if isinstance(node, ast.ClassDef):
                found[source.module, node.name] = (source, node)
    aliases = {
        (source.module, one.name): (one.module, one.name)
        for source in sources
        for one in imports(source)
        if one.name is not None and one.module.startswith(PACKAGE)
    }
    for alias, target in aliases.items():
        seen = {alias}
        while target in aliases and target not in seen:
            seen.add(target)
            target = aliases[target]
        if target in found and alias not in found:
            found[alias] = found[target]
    return found


def _chain(module: str, node: ast.ClassDef, classes: Classes) -> list[tuple[str, ast.ClassDef]]:
    """The longest line of our own classes from `node` upwards, itself first."""
    longest: list[tuple[str, ast.ClassDef]] = []
    for base in node.bases:
        known = classes.get((module, _base_name(base)))
        if known is not None and known[1] is not node:
            above = _chain(known[0].module, known[1], classes)
            longest = max(longest, above, key=len)
    return [(module, node), *longest]


def _base_name(base: ast.expr) -> str:
    if isinstance(base, ast.Subscript):
        base = base.value
    return base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr | None]]:
    """Annotated names of a class body that a constructor would take, with their defaults."""
    for one in node.body:
        if not isinstance(one, ast.AnnAssign) or not isinstance(one.target, ast.Name):
            continue
        computed = isinstance(one.value, ast.Call) and any(
            k.arg == "init" and isinstance(k.value, ast.Constant) and k.value.value is False
            for k in one.value.keywords
        )
        if "ClassVar" not in ast.unparse(one.annotation) and not computed:
            yield one.target.id, one.value


def doors(sources: Sequence[Source], limit: int, raised: Mapping[str, int]) -> Iterator[Violation]:
    """Rooms without a door, doors without a sorted `__all__`, doors with too many names."""
    rooms = {source.room for source in sources if source.room}
    doors = {source.room: source for source in sources if source.is_door and source.room}
    for room in sorted(rooms - doors.keys()):
        path = f"src/{PACKAGE}/{room}/__init__.py"
        yield Violation(path, 1, f"room '{room}' has no door", "write it, with an __all__")
    for room, source in sorted(doors.items()):
        if source.module.count(".") == 1:
            yield from _door(source, raised.get(room, limit))


def _door(source: Source, limit: int) -> Iterator[Violation]:
    names = public_names(source)
    if names is None:
        yield Violation(source.path, 1, "the door has no __all__ written out", "list the names")
        return
    if list(names) != sorted(names, key=_as_ruff_sorts):
        todo = f"write {', '.join(sorted(names, key=_as_ruff_sorts))}"
        yield Violation(source.path, 1, "__all__ is not in order", todo)
    if len(names) > limit:
        what = f"{len(names)} public names, and '{source.room}' has at most {limit}"
        yield Violation(source.path, 1, what, "make the rest private, or raise the room's limit")


def _as_ruff_sorts(name: str) -> tuple[int, list[tuple[int, str]]]:
    """Constants, then classes, then the rest; numbers by value (ruff's RUF022, which mends it)."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    parts = re.findall(r"\d+|\D+", name)
    return kind, [(int(p), "") if p.isdigit() else (-1, p) for p in parts]

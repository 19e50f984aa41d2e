"""Rules about imports: which room may import which, through which door, and never in a circle.

The table is handed in. A room may import itself and the rooms of its row, these by their door only
and only names the door lists. The front door (`burnish/__init__.py`, `__main__.py`) may import any
room and is left out of the search for knots: a room may ask it for `__version__`, which needs none
of what the front door looks up later.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from tests.architecture.source import COMPUTED, PACKAGE, Import, Source, Violation, imports

Table = Mapping[str, frozenset[str]]


def forbidden_imports(sources: Sequence[Source], table: Table) -> Iterator[Violation]:
    """Edges the table does not have, other rooms' private files, names their doors do not list."""
    doors = {s.room: public_names(s) for s in sources if s.is_door and s.room}
    for source in sources:
        if source.room and source.room not in table:
            yield Violation(
                source.path, 1, f"room '{source.room}' is not in the table", "add its row"
            )
            continue
        for found in imports(source):
            broken = _broken(source, found, table, doors)
            if broken is not None:
                yield Violation(source.path, found.line, *broken)


def _broken(
    source: Source, found: Import, table: Table, doors: Mapping[str, Sequence[str] | None]
) -> tuple[str, str] | None:
    parts = found.module.split(".")
    if parts[0] != PACKAGE:
        return None
    if len(parts) == 1:
        return _broken_at_front_door(source, found, table)
    room = parts[1]
    if room == source.room or (found.in_text and room not in table):
        return None
    refused = _broken_edge(source, room, table)
    if refused is not None:
        return refused
    private = found.name is not None and found.name.startswith("_")
    if len(parts) > 2 or private:
        what = f"imports '{room}' past its door ({found.module}, {found.name or 'whole'})"
        return what, f"import from {PACKAGE}.{room} what its __all__ lists"
    listed = doors.get(room)
    if found.name is not None and listed is not None and found.name not in listed:
        what = f"'{found.name}' is not in the __all__ of '{room}'"
        return what, f"import one of {', '.join(listed)}, or make it public there"
    return None


def _broken_at_front_door(source: Source, found: Import, table: Table) -> tuple[str, str] | None:
    if found.name in table:
        return None if found.name == source.room else _broken_edge(source, str(found.name), table)
    if found.name == "__version__" or not source.room:
        return None
    if found.name == COMPUTED:
        return "imports a room by a computed name", "write the import out, inside the function"
    what = f"imports '{found.name or PACKAGE}' from the front door"
    return what, "import it from the room that owns it"


def _broken_edge(source: Source, room: str, table: Table) -> tuple[str, str] | None:
    if room not in table:
        return f"imports '{room}', which is no room", "import from a room of the table"
    if not source.room or room in table[source.room]:
        return None
    allowed = ", ".join(sorted(table[source.room])) or "nothing"
    what = f"'{source.room}' may not import '{room}' (it may import {allowed})"
    return what, "move what both need further down, or have it handed in by the caller"


def knots(sources: Sequence[Source]) -> Iterator[Violation]:
    """A circle of imports: between rooms, a room's folders, or files; of each the first found."""
    inside = [source for source in sources if source.room]
    by_module = {source.module: source for source in inside}
    rooms: dict[str, set[str]] = {}
    for source in inside:
        theirs = {by_module[module].room for module in _targets(source, by_module)}
        rooms.setdefault(source.room, set()).update(theirs - {source.room})
    files = {source.module: _targets(source, by_module) for source in inside}
    folders: dict[str, set[str]] = {}
    for module, others in files.items():
        mine = by_module[module].package
        theirs = {by_module[other].package for other in others}
        if mine.count(".") > 1:
            folders.setdefault(mine, set()).update(theirs - {mine})
    doors = {s.room: s.path for s in inside if s.is_door}
    yield from _circle(rooms, lambda room: doors.get(room, f"src/{PACKAGE}/{room}"))
    yield from _circle(folders, lambda folder: f"src/{folder.replace('.', '/')}")
    yield from _circle(files, lambda module: by_module[module].path)


def _targets(source: Source, by_module: Mapping[str, Source], *, at_top: bool = False) -> set[str]:
    found = set()
    for one in imports(source):
        if at_top and one.late:
            continue
        submodule = f"{one.module}.{one.name}"
        target = submodule if submodule in by_module else one.module
        if target in by_module and target != source.module:
            found.add(target)
    return found


def _circle(edges: Mapping[str, set[str]], path: Callable[[str], str]) -> Iterator[Violation]:
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        circle = list(reversed(error.args[1]))
        what = f"imports go round in a circle: {' -> '.join(circle)}"
        yield Violation(path(circle[0]), 1, what, "move what both need into a file below them")


def public_names(source: Source) -> tuple[str, ...] | None:
    """The `__all__` written out in a file, or None where there is none."""
    for node in source.tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            named = any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets)
            if named and isinstance(node.value, ast.List | ast.Tuple):
                return tuple(str(ast.literal_eval(element)) for element in node.value.elts)
    return None


def early_imports(
    sources: Sequence[Source], package: str, never: Sequence[str], late: Sequence[str]
) -> Iterator[Violation]:
    """Imports of `package`: any in the rooms `never`, those that run with the room in `late`.

    A file of a `late` room may import it at the top when nobody imports that file at the top.
    """
    by_module = {source.module: source for source in sources}
    early = {module for s in sources for module in _targets(s, by_module, at_top=True)}
    for source in sources:
        loads = source.is_door or source.module in early
        for found in imports(source):
            if found.module.split(".")[0] != package:
                continue
            if source.room in never:
                what = f"'{source.room}' must work where {package} is not installed"
                yield Violation(source.path, found.line, what, "do without it")
            elif source.room in late and loads and not found.late:
                what = f"'{source.room}' must not load {package} when it is imported"
                yield Violation(source.path, found.line, what, "import inside the function")

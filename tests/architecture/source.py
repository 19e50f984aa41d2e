"""Reading the package without importing it: files, their trees, and what they import.

Every import counts, wherever it stands: at the top, inside a function, under TYPE_CHECKING, or as
a module's name in a string, for `import_module` or `python -m`. A name put together at run time
cannot be read; one that starts with "burnish" is reported. Left out: what other packages import.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "burnish"
COMPUTED = "<computed>"
WRITTEN = re.compile(rf"{PACKAGE}(\.\w+)+")


@dataclass(frozen=True)
class Violation:
    """Where a rule is broken and what to do about it."""

    path: str
    line: int
    what: str
    todo: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}; {self.todo}"


@dataclass(frozen=True)
class Import:
    """One imported thing: `from module import name`, or `import module` where name is None.

    `late` ones do not run when the file is imported; `in_text` ones stand in a string, and may be
    no import at all.
    """

    line: int
    module: str
    name: str | None
    late: bool
    in_text: bool = False


@dataclass(frozen=True)
class Source:
    """One parsed file. `module` is its dotted name, "" for a file outside the package.

    `is_door`: it is a room's `__init__`, or the package's; that of a folder in a room is none.
    """

    path: str
    module: str
    is_door: bool
    text: str
    tree: ast.Module

    @property
    def room(self) -> str:
        """The room it belongs to; "" for the package's own front door and `__main__`."""
        parts = self.module.split(".")
        inside = len(parts) > 2 or (len(parts) == 2 and self.is_door)
        return parts[1] if inside else ""

    @property
    def package(self) -> str:
        """The module's own name for an `__init__`, that above it for other files."""
        inits = self.path.endswith("__init__.py")
        return self.module if inits else self.module.rpartition(".")[0]


def read_files(root: Path, files: Iterable[Path]) -> tuple[Source, ...]:
    """Parses `files`; their module names are those below `root/src`."""
    return tuple(_read(root, file) for file in sorted(files))


def read_package(root: Path) -> tuple[Source, ...]:
    """Parses every file of the package in `root/src/burnish`."""
    return read_files(root, (root / "src" / PACKAGE).rglob("*.py"))


def _read(root: Path, file: Path) -> Source:
    relative = file.relative_to(root)
    module = ""
    if relative.parts[:2] == ("src", PACKAGE):
        parts = relative.with_suffix("").parts[1:]
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    text = file.read_text(encoding="utf-8")
    return Source(
        path=relative.as_posix(),
        module=module,
        is_door=file.name == "__init__.py" and module.count(".") < 2,
        text=text,
        tree=ast.parse(text, filename=str(file)),
    )


def imports(source: Source) -> tuple[Import, ...]:
    """Every import of `source`, relative ones made absolute."""
    return tuple(_walk(source, source.tree, late=False))


def _walk(source: Source, node: ast.AST, *, late: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(node.lineno, alias.name, None, late)
    elif isinstance(node, ast.ImportFrom):
        module = _absolute(source, node.level, node.module)
        for alias in node.names:
            yield Import(node.lineno, module, alias.name, late)
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, str) and WRITTEN.fullmatch(node.value):
            yield Import(node.lineno, node.value, None, late=True, in_text=True)
    elif isinstance(node, ast.Call):
        yield from _dynamic(node, late)
    function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    typing_only = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
    for child in ast.iter_child_nodes(node):
        yield from _walk(source, child, late=late or function or typing_only)


def _absolute(source: Source, level: int, module: str | None) -> str:
    if level == 0:
        return module or ""
    parts = source.package.split(".")
    base = ".".join(parts[: len(parts) - level + 1])
    return f"{base}.{module}" if module else base


def _dynamic(call: ast.Call, late: bool) -> Iterator[Import]:
    """`import_module(...)`; a name of ours that is written out is found as a string anyway."""
    called = call.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    if name not in ("import_module", "__import__") or not call.args:
        return
    wanted = call.args[0]
    if not isinstance(wanted, ast.Constant):
        if any(_starts_with_package(part) for part in ast.walk(wanted)):
            yield Import(call.lineno, PACKAGE, COMPUTED, late)
    elif isinstance(wanted.value, str) and not WRITTEN.fullmatch(wanted.value):
        yield Import(call.lineno, wanted.value, None, late)


def _starts_with_package(node: ast.AST) -> bool:
    text = node.value if isinstance(node, ast.Constant) else None
    return isinstance(text, str) and text.startswith((PACKAGE, "."))

"""Which operators, or weights, the patterns of a setting name.

A pattern is a name as a step's table has it, a module path (with all below it), or holds
`*` and `?`. One that names nothing is a mistake of the caller's, and said so.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from burnish.errors import InvalidInput


def matching(names: Sequence[str], patterns: Sequence[str], setting: str) -> dict[str, list[str]]:
    """The names that each pattern of `setting` stands for, in order.

    Raises:
        InvalidInput: a pattern that matches none, or patterns given as one string.
    """
    if isinstance(patterns, str):
        raise InvalidInput(f"{setting}={patterns!r}: give a tuple of names, ({patterns!r},)")
    found: dict[str, list[str]] = {}
    for pattern in patterns:
        found[pattern] = [name for name in names if _stands_for(pattern, name)]
        if not found[pattern]:
            close = ", ".join(list(names)[:6])
            raise InvalidInput(
                f"{setting}={pattern!r} matches nothing; the first names are: {close}"
            )
    return found


def _stands_for(pattern: str, name: str) -> bool:
    below = name.startswith((f"{pattern}:", f"{pattern}."))
    return name == pattern or below or fnmatch.fnmatchcase(name, pattern)

"""Checking settings that are names: one of those known, or patterns of operators' names.

Left out: whether a pattern names an operator; `matching` finds that out.
"""

from __future__ import annotations

from burnish.errors import InvalidInput


def one_of(owner: str, name: str, value: object, known: tuple[str, ...]) -> None:
    """InvalidInput where a setting is none of the known values."""
    if not isinstance(value, str) or value not in known:
        raise InvalidInput(f"{owner}({name}={value!r}): one of {', '.join(map(repr, known))}")


def patterns(name: str, value: object) -> tuple[str, ...]:
    """A setting that lists operators, as a tuple. InvalidInput for a bare string."""
    if isinstance(value, str) or not all(isinstance(v, str) for v in value):  # type: ignore[attr-defined]
        raise InvalidInput(f"{name}={value!r}: a tuple of names or patterns, as ({value!r},)")
    return tuple(value)  # type: ignore[arg-type]

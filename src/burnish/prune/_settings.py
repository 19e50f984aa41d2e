"""Settings that several steps of this room have, checked alike: words, shares, multiples, patterns.

Left out: what only one step asks for; it checks that itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from burnish.errors import InvalidInput


def check_words(step: Any, allowed: Mapping[str, Sequence[str]]) -> None:
    """InvalidInput where a setting is none of the words it may be."""
    for name, words in allowed.items():
        value = getattr(step, name)
        if value not in words:
            raise InvalidInput(f"{_named(step, name, value)}: one of {', '.join(words)}")


def check_ratio(step: Any) -> None:
    """InvalidInput where `ratio` is no share from 0 up to, not including, 1."""
    if not 0 <= step.ratio < 1:
        said = _named(step, "ratio", step.ratio)
        raise InvalidInput(f"{said}: a share, from 0 up to but not including 1")


def check_multiple(step: Any) -> None:
    """InvalidInput where `round_to` is no whole number from 1 up."""
    if not isinstance(step.round_to, int) or step.round_to < 1:
        raise InvalidInput(f"{_named(step, 'round_to', step.round_to)}: a number from 1 up")


def settle_ignore(step: Any) -> None:
    """Make `ignore` a tuple. InvalidInput for a single string, or what is no sequence."""
    given = step.ignore
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InvalidInput(f"{_named(step, 'ignore', given)}: give a tuple, ({given!r},)")
    object.__setattr__(step, "ignore", tuple(given))


def _named(step: Any, name: str, value: Any) -> str:
    return f"{type(step).__name__}({name}={value!r})"

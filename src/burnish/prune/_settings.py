"""Settings that several steps of this room have, read alike: words, shares, multiples, patterns.

Left out: what only one step asks for; it checks that itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from burnish.errors import InvalidInput
from burnish.graph import matching


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


def left_alone(owners: Mapping[str, Collection[str]], ignore: Sequence[str]) -> dict[str, str]:
    """Why things are left alone at the user's wish, by their names.

    Args:
        owners: for each thing the names that an entry of `ignore` may call it by.
        ignore: names, module paths, patterns; of several that name a thing the first is told.

    Raises InvalidInput for an entry that matches nothing.
    """
    named = matching([name for own in owners.values() for name in own], ignore, "ignore")
    return {
        owner: f"ignore names {entry!r}"
        for entry in reversed(ignore)
        for owner, own in owners.items()
        if set(own) & set(named[entry])
    }


def _named(step: Any, name: str, value: Any) -> str:
    return f"{type(step).__name__}({name}={value!r})"

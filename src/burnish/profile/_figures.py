"""Numbers as people write them: 4.65 M, 18.6 MB, 3.1 ms."""

from __future__ import annotations

_LARGE = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count_text(value: float) -> str:
    """A number of things with its decimal prefix: 4.65 M."""
    for size, prefix in _LARGE:
        if value >= size:
            return f"{_three(value / size)} {prefix}"
    return f"{value:.3g}"


def bytes_text(value: float) -> str:
    """An amount of memory in decimal units: 18.6 MB."""
    for size, prefix in _LARGE:
        if value >= size:
            return f"{_three(value / size)} {prefix.replace('k', 'K')}B"
    return f"{value:.0f} B"


def time_text(seconds: float) -> str:
    """A duration: 3.12 ms, 45.0 µs."""
    for size, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= size:
            return f"{_three(seconds / size)} {unit}"
    return f"{_three(seconds * 1e6)} µs"


def _three(value: float) -> str:
    """Three digits, those before the point whole."""
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{decimals}f}"

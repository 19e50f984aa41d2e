"""The catalogue: one tiny model for each topology a method must handle.

A test that runs over the catalogue asks of every method what the field's papers ask of theirs on
one network. Whatever is added here is tried by every contract at once.
"""

from __future__ import annotations

from burnish.testing._calls import CALLS
from burnish.testing._convolutional import CONVOLUTIONAL
from burnish.testing._sequences import SEQUENCES
from burnish.testing._tiny import Tiny


def catalogue() -> tuple[Tiny, ...]:
    """Every tiny model, always in the same order; the names are unique."""
    return (*CONVOLUTIONAL, *SEQUENCES, *CALLS)

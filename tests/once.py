"""The catalogue's models, traced once a session: a test that edits a graph takes a copy.

What is exported of one traced model is remembered by it (`runtimes`), so that tests which take
theirs from here share exports, too.
"""

from __future__ import annotations

import functools

from burnish.graph import Traced
from burnish.quantize import fold
from burnish.testing import Tiny


@functools.cache
def traced(tiny: Tiny) -> Traced:
    """The model as traced."""
    return tiny.trace()


@functools.cache
def folded(tiny: Tiny) -> Traced:
    """The same with its batch-norms folded."""
    return fold(traced(tiny))

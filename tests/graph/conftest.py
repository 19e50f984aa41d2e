"""The catalogue's models, each traced once a session: tests that edit a graph take a copy."""

from __future__ import annotations

import functools

import pytest

from burnish.graph import Traced
from burnish.testing import Tiny, catalogue


@pytest.fixture(params=catalogue(), ids=str)
def tiny(request: pytest.FixtureRequest) -> Tiny:
    found = request.param
    assert isinstance(found, Tiny)
    return found


@functools.cache
def _traced(tiny: Tiny) -> Traced:
    return tiny.trace()


@pytest.fixture
def traced(tiny: Tiny) -> Traced:
    return _traced(tiny)

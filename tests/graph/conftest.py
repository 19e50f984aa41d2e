"""The catalogue's models, each traced once a session: tests that edit a graph take a copy."""

from __future__ import annotations

import pytest

from burnish.graph import Traced
from burnish.testing import Tiny, catalogue
from tests import once


@pytest.fixture(params=catalogue(), ids=str)
def tiny(request: pytest.FixtureRequest) -> Tiny:
    found = request.param
    assert isinstance(found, Tiny)
    return found


@pytest.fixture
def traced(tiny: Tiny) -> Traced:
    return once.traced(tiny)

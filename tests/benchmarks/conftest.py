"""Files of benchmarks/, imported as the commands there import them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATHS = [str(ROOT / "benchmarks"), str(ROOT / "benchmarks" / "peers"), str(ROOT / "examples")]


@pytest.fixture(scope="module")
def load() -> Iterator[Any]:
    """Import a file of benchmarks/ as a command does."""
    sys.path[:0] = PATHS
    yield importlib.import_module
    for path in PATHS:
        sys.path.remove(path)

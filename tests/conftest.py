"""What every test may ask for.

`shared_data` is the folder of real data beside a checkout (`../shared/data`); it is not part of the
project, so a test that asks for it is skipped, and says so, where it is absent.

Time: our networks are tiny, so torch computes with one thread; and what the test modules imported
(a million objects) is kept from the garbage collector, which would look through it again and again.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

# The same examples each time, and no deadline: a busy machine is not a failure.
hypothesis.settings.register_profile("burnish", derandomize=True, deadline=None)
hypothesis.settings.load_profile("burnish")


def pytest_collection_finish() -> None:
    """All test modules are imported."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 50)


@pytest.fixture(scope="session", autouse=True)
def _cache(pytestconfig: pytest.Config) -> Iterator[None]:
    """What Burnish keeps to make it only once stays out of the user's own folder."""
    with pytest.MonkeyPatch.context() as patch:
        if pytestconfig.cache is not None:
            patch.setenv("BURNISH_CACHE", str(pytestconfig.cache.mkdir("burnish")))
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """`../shared/data`, or a skip that names it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data beside the checkout, which is absent")
    return folder

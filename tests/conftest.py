"""What every test may ask for.

`shared_data` is the folder of real data beside a checkout (`../shared/data`); it is not part of the
project, so a test that asks for it is skipped, and says so, where it is absent.
"""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent

# The same examples each time, and no deadline: a busy machine is not a failure.
hypothesis.settings.register_profile("burnish", derandomize=True, deadline=None)
hypothesis.settings.load_profile("burnish")


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

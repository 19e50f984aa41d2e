"""The browser that looks at pages."""

from __future__ import annotations

import shutil

import pytest

from tests.report.browser import CHROMIUM


@pytest.fixture(scope="session")
def chromium() -> list[str]:
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("needs chromium on PATH to look at the page, and there is none")
    return [found, *CHROMIUM]

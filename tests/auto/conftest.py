"""Fast runs: exports made once a session, answers in this process."""

from __future__ import annotations

import pytest

from tests.auto.made_up import Exports, Here


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """What was exported in this session."""
    return Exports(tmp_path_factory.mktemp("exports"))


@pytest.fixture
def quick(exported: Exports, monkeypatch: pytest.MonkeyPatch) -> Exports:
    """No export is made twice, no process started, no page drawn and no rounding learned."""
    exported.asked = 0
    monkeypatch.setattr("burnish.auto._optimize.report", lambda folder: folder / "report.html")
    monkeypatch.setattr("burnish.auto._workshop.export", exported)
    monkeypatch.setattr("burnish.auto._workshop.load", Here)
    monkeypatch.setattr("burnish.auto._optimize.load", Here)
    monkeypatch.setattr("burnish.auto._search.REFINEMENTS", ("refined",))
    return exported

"""What `optimize` gives back: the pick, the report, and where everything lies."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.bundle import Bundle
from burnish.errors import InvalidInput
from burnish.report import report, table


@dataclass(frozen=True)
class Result:
    """A finished run. Printing it shows the frontier, the pick and why.

    `pick` is the label of the picked candidate; `report` the content of report.json; `run_folder`
    holds the journal, every candidate, the page and the bundle.
    """

    pick: str
    run_folder: Path
    report: dict[str, Any]

    @property
    def bundle(self) -> Path:
        """The folder to ship."""
        return self.run_folder / "bundle"

    @property
    def page(self) -> Path:
        """The page to read."""
        return self.run_folder / "report.html"

    def save(self, folder: Path | str) -> Path:
        """Copy the bundle and the page into `folder`; gives the folder.

        Raises InvalidInput where `folder` holds something that is not an earlier save, or nothing
        was picked.
        """
        out = Path(folder)
        if not self.pick:
            raise InvalidInput(f"nothing was picked in this run: see {self.page}")
        target = out / "bundle"
        if target.exists():
            try:
                Bundle.open(target)
            except Exception as error:
                raise InvalidInput(f"{target} exists and is no bundle: choose another") from error
            shutil.rmtree(target)
        out.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self.bundle, target)
        report(self.run_folder, out / "report.html")
        return out

    def __str__(self) -> str:
        return str(table(self.report))

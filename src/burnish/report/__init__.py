"""From a run folder's report.json to a page for a browser and a table for a terminal.

The room reads JSON and nothing else: it loads no model, no runtime and no torch, so a report can be
made again on a machine that could not run what it tells of. See the files for how.
"""

from __future__ import annotations

from burnish.report._page import report
from burnish.report._terminal import table, text

__all__ = ["report", "table", "text"]

"""From what was written down to a page for a browser and a table for a terminal.

A run folder's report.json, a model's profile.json and a sweep's sweep.json become a page each. The
room reads JSON and nothing else: it loads no model, no runtime and no torch, so a page can be made
again on a machine that could not run what it tells of. See the files for how.
"""

from __future__ import annotations

from burnish.report._page import report
from burnish.report._profile_page import profile_page
from burnish.report._sweep_page import sweep_page
from burnish.report._terminal import table, text

__all__ = ["profile_page", "report", "sweep_page", "table", "text"]

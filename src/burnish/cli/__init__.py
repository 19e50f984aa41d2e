"""The command line: parse, call one room, print. See the files for how."""

from __future__ import annotations

from burnish.cli._app import main

__all__ = ["main"]

"""The run folder, and building a candidate again from its history."""

from __future__ import annotations

from burnish.recipe._replay import load_history, replay, save_history
from burnish.recipe._store import Store

__all__ = ["Store", "load_history", "replay", "save_history"]

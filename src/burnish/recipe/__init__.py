"""The run folder, building a candidate again from its history, and steps in rounds."""

from __future__ import annotations

from burnish.recipe._replay import load_history, replay, save_history
from burnish.recipe._rounds import gradual, repeat
from burnish.recipe._store import Store

__all__ = ["Store", "gradual", "load_history", "repeat", "replay", "save_history"]

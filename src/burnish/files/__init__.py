"""Files that are there whole or not at all, and the folder for those that can be made again."""

from __future__ import annotations

from burnish.files._cache import cache_folder
from burnish.files._whole import replacing, write_text

__all__ = ["cache_folder", "replacing", "write_text"]

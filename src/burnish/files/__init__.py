"""Files that are there whole or not at all."""

from __future__ import annotations

from burnish.files._whole import replacing, write_text

__all__ = ["replacing", "write_text"]

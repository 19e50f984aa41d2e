"""What this machine is: processor, usable cores, memory, instructions."""

from __future__ import annotations

from burnish.hardware._machine import Machine, detect

__all__ = ["Machine", "detect"]

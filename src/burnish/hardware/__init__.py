"""What this machine is: processor, usable cores, caches, memory, instructions, GPUs."""

from __future__ import annotations

from burnish.hardware._gpu import Gpu, gpus
from burnish.hardware._machine import Machine, detect

__all__ = ["Gpu", "Machine", "detect", "gpus"]

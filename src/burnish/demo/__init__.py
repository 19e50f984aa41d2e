"""The demo: 5,000 handwritten digits, a small network, and the same code path as any model's."""

from __future__ import annotations

from burnish.demo._demo import build, demo

__all__ = ["build", "demo"]

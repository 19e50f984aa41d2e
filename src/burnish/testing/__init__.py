"""Tiny models of every topology, and contracts to inherit: for our tests and for others'."""

from __future__ import annotations

from burnish.testing._catalogue import catalogue
from burnish.testing._rewrite import RewriteContract
from burnish.testing._runtime import RuntimeContract
from burnish.testing._step import StepContract
from burnish.testing._tiny import Tiny, batches

__all__ = ["RewriteContract", "RuntimeContract", "StepContract", "Tiny", "batches", "catalogue"]

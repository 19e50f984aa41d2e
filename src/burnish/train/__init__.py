"""The one training loop, and the one loop that scores a split."""

from __future__ import annotations

from burnish.train._evaluate import Scores, evaluate
from burnish.train._fit import fit

__all__ = ["Scores", "evaluate", "fit"]

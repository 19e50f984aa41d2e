"""Scores per sample, and the paired statistics that decide whether quality was kept."""

from __future__ import annotations

from burnish.metrics._metric import Metric, f1_macro, mean_squared_error, scores, top1
from burnish.metrics._set import set_verdict
from burnish.metrics._verdict import Verdict, verdict

__all__ = [
    "Metric",
    "Verdict",
    "f1_macro",
    "mean_squared_error",
    "scores",
    "set_verdict",
    "top1",
    "verdict",
]

"""The value and the verb: candidates, the steps that make new ones, and the frontier of them.

A Step turns a Candidate into another Candidate, for a Goal. What several steps decide alike, one of
its options for each layer under a limit, is `allocate`.
"""

from __future__ import annotations

from burnish.core._allocate import Allocation, Option, Seam, allocate, check_figure
from burnish.core._candidate import Applied, Candidate, Choices, model_hash, tensor_hash
from burnish.core._copy import copied_model
from burnish.core._frontier import Frontier
from burnish.core._step import Chain, Rewrite, Step, settings_of

__all__ = [
    "Allocation",
    "Applied",
    "Candidate",
    "Chain",
    "Choices",
    "Frontier",
    "Option",
    "Rewrite",
    "Seam",
    "Step",
    "allocate",
    "check_figure",
    "copied_model",
    "model_hash",
    "settings_of",
    "tensor_hash",
]

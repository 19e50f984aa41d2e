"""The value and the verb: candidates, the steps that make new ones, and the frontier of them.

A Step turns a Candidate into another Candidate, for a Goal.
"""

from __future__ import annotations

from burnish.core._candidate import Applied, Candidate, Choices, model_hash, tensor_hash
from burnish.core._copy import copied_model
from burnish.core._frontier import Frontier
from burnish.core._step import Chain, Rewrite, Step, settings_of

__all__ = [
    "Applied",
    "Candidate",
    "Chain",
    "Choices",
    "Frontier",
    "Rewrite",
    "Step",
    "copied_model",
    "model_hash",
    "settings_of",
    "tensor_hash",
]

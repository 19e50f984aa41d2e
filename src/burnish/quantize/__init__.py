"""Quantization: number formats, observers, and the steps that turn float models into int8 ones."""

from __future__ import annotations

from burnish.quantize._calibrate import Statistics, calibrate
from burnish.quantize._place import Coverage
from burnish.quantize._static import QuantizeStatic, coverage, fold, quantize_static

__all__ = [
    "Coverage",
    "QuantizeStatic",
    "Statistics",
    "calibrate",
    "coverage",
    "fold",
    "quantize_static",
]

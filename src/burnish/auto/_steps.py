"""The table of step names: what a history may name, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from burnish.core import Rewrite
from burnish.quantize import QuantizeStatic

STEPS: Mapping[str, Callable[..., Rewrite]] = MappingProxyType({"QuantizeStatic": QuantizeStatic})

"""One candidate of a search: runtime, precision, how it was quantized, what stays float.

A `Variant` is what is exported and answered once; a `Trial` is a variant with a number of threads,
which is what is timed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from burnish.bundle import Artifact
from burnish.quantize import Coverage


@dataclass(frozen=True)
class Variant:
    """A runtime, a precision, and for int8 the recipe and the operators kept in float.

    Precisions are "float32", "bfloat16", "float16" and "int8".
    """

    runtime: str
    precision: str
    exclude: tuple[str, ...] = ()
    recipe: str = "static"

    @property
    def key(self) -> str:
        """The name of its folder and of its entries in the journal."""
        name = f"{self.runtime}-{self.precision}"
        name += "" if self.recipe == "static" else f"-{self.recipe}"
        if not self.exclude:
            return name
        text = json.dumps(sorted(self.exclude))
        digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
        return f"{name}-but-{len(self.exclude)}-{digest}"

    @property
    def label(self) -> str:
        """What a person reads."""
        name = f"{self.runtime} {self.precision}"
        name += "" if self.recipe == "static" else f" {self.recipe}"
        if not self.exclude:
            return name
        return f"{name}, {len(self.exclude)} in float ({self.key[-4:]})"

    def but(self, exclude: tuple[str, ...]) -> Variant:
        """The same with other operators in float."""
        return replace(self, exclude=tuple(sorted(set(exclude))))


@dataclass(frozen=True)
class Built:
    """A variant exported and answered."""

    variant: Variant
    artifact: Artifact
    quality: Mapping[str, Any]
    verdict: Mapping[str, Any]
    agreement: float | None
    parity: float | None
    int8: tuple[str, ...]
    num_operators: int
    coverage: tuple[Coverage, ...]

    @property
    def holds(self) -> bool:
        """Whether the verdict on validation data is that quality was kept."""
        return bool(self.verdict["state"] == "holds")


@dataclass(frozen=True)
class Trial:
    """A built variant with its threads, as timed."""

    built: Built
    threads: int

    @property
    def label(self) -> str:
        """What a person reads."""
        return f"{self.built.variant.label}, {self.threads} thread{'s' * (self.threads != 1)}"

    @property
    def artifact(self) -> Artifact:
        """The artifact with its threads."""
        return self.built.artifact.with_options(threads=self.threads)

    @property
    def simplicity(self) -> tuple[int, int, int, int]:
        """Less is simpler: how a tie inside the noise is broken."""
        variant = self.built.variant
        precision = ("float32", "bfloat16", "float16", "int8").index(variant.precision)
        recipe = ("dynamic", "static", "refined", "learned").index(variant.recipe)
        return (precision, recipe, len(variant.exclude), self.threads)

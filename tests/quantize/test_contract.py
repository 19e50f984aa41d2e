"""`QuantizeStatic` owes what every rewrite owes, on every model of the catalogue.

The first runtime's placement is tried on all; the second's on one model for each way in which the
two differ.
"""

from __future__ import annotations

from collections.abc import Iterable

from burnish.core import Choices
from burnish.quantize import QuantizeStatic
from burnish.testing import RewriteContract, Tiny, catalogue

DIFFERENT = ("residual", "separable", "concat", "squeeze_excite", "attention_split", "gru")


class Contract(RewriteContract):
    def names_in(self, choices: Choices) -> Iterable[str]:
        plan = choices.plan
        names = [*plan["operators"], *plan["quantizers"]]
        names += [name for entry in plan["quantizers"].values() for name in entry["readers"] or ()]
        names += [name for pair in plan["equalized"] for name in pair if name is not None]
        return [*names, *(row["operator"] for row in plan["coverage"])]


class TestForOnnxRuntime(Contract):
    def step(self) -> QuantizeStatic:
        return QuantizeStatic("onnxruntime")


class TestForOpenVino(Contract):
    def step(self) -> QuantizeStatic:
        return QuantizeStatic("openvino", ranges="min-max", bias_correction=False, equalize=False)

    def tinies(self) -> Iterable[Tiny]:
        return [tiny for tiny in catalogue() if tiny.name in DIFFERENT]
